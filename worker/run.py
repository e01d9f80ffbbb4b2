"""A running job, in the hands of the worker that runs it: its phases, its diary, and how it may end.

Every write names the job's fence, so a worker that lost the job writes nothing. Leaves out what the phases do
(`worker.learn`).
"""

import logging
import math
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID

from sqlalchemy.orm import Session

from app.errors import Cancelled, Fenced, Unavailable
from app.store import claims, events, jobs
from app.store.connect import Store
from training.health import UpdateRejected
from worker.lessons import Reason
from worker.watch import Stopped, Watch

MOST_FAILURES: Final = 3  # jobs in a row that may fail on the same interactions before these are given up

log = logging.getLogger(__name__)


class GateRefused(Exception):
    """The held-out gate says no to a candidate."""


@dataclass(slots=True)
class Run:
    """Use as a context manager: whatever ends the block also ends the job, with what is known of why."""

    store: Store
    job_id: UUID
    fence: int
    watch: Watch
    metrics: dict[str, Any] = field(default_factory=dict)  # of the job, as far as they are known
    over: bool = False  # whether the job's end is written
    _phase: str = "claim"
    _since: float = field(default_factory=time.monotonic)

    def enter(self, phase: str) -> None:
        """Begin a phase, unless the job was cancelled, fenced or stopped meanwhile."""
        self.watch.check()
        self._clock()
        with self.store.session() as session:
            job = jobs.advance(session, self.job_id, self.fence, phase)
            events.say(session, self.job_id, phase)
            asked_to_cancel = job.cancel_requested
        if asked_to_cancel:
            raise Cancelled(f"The job was cancelled during {self._phase}.")
        self._phase = phase
        self.watch.enter(phase)

    def note(self, message: str, **figures: Any) -> None:
        """Write figures into the diary, and keep them among the job's metrics."""
        known = plain(figures)
        self.metrics |= known
        with self.store.session() as session:
            jobs.heartbeat(session, self.job_id, self.fence, known)
            events.measure(session, self.job_id, known, message=message)

    def finish(self, session: Session, status: jobs.Outcome, verdict: str | None, **more: Any) -> None:
        """Write the end, in the caller's transaction; `over` once that is committed."""
        self._clock()
        jobs.finish(session, self.job_id, self.fence, status, verdict=verdict, metrics=plain(self.metrics), **more)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        """End a job that did not end by itself. Expected ends are swallowed; an error goes on to the caller."""
        if error is None or self.over:
            return False
        if isinstance(error, Fenced):
            log.warning("job %s was taken over: %s", self.job_id, error)
            return True
        with suppress(Unavailable, Fenced):  # then the next learner finds an orphan
            self._end(error)
        return isinstance(error, Cancelled | Stopped | UpdateRejected | GateRefused)

    def _end(self, error: BaseException) -> None:
        """Write why the job ended."""
        with self.store.session() as session:
            if isinstance(error, Cancelled):
                self.finish(session, "cancelled", "cancelled", error=str(error))
            elif isinstance(error, Stopped):
                self.finish(session, "failed", "stopped", error=str(error))
            elif isinstance(error, UpdateRejected):
                self._refuse(session, "failed", error, dict(error.diagnosis))
            elif isinstance(error, GateRefused):
                self._refuse(session, "succeeded", error, self.metrics.get("gate", {}))
            else:
                give_up_after_failures(session, self.job_id)
                self.finish(session, "failed", None, error=summary(error), diagnosis=self._diagnosis(error))
            events.say(session, self.job_id, str(error) or type(error).__name__, level="error")
        self.over = True

    def _refuse(self, session: Session, status: jobs.Outcome, error: Exception, diagnosis: dict[str, Any]) -> None:
        """End without a checkpoint; what was learned from is spent, since the same data would be refused again."""
        reason: Reason = "rejected"
        self.metrics["rejected"] = claims.abandon(session, self.job_id, reason)
        self.finish(session, status, "rejected", error=str(error), diagnosis=plain(diagnosis))

    def _diagnosis(self, error: BaseException) -> dict[str, Any]:
        return {"phase": self._phase, "traceback": "".join(traceback.format_exception(error))[-8000:]}

    def _clock(self) -> None:
        now = time.monotonic()
        self.metrics.setdefault("seconds", {})[self._phase] = round(now - self._since, 3)
        self._since = now


def recover(store: Store) -> int:
    """End jobs whose worker is gone, under the learner's lock; returns how many."""
    with store.session() as session:
        running = jobs.running(session)
        if running is None:
            return 0
        give_up_after_failures(session, running.id)
        lost = jobs.orphans(session, timedelta(0))
        for job in lost:
            events.say(session, job.id, f"the worker {job.worker} was lost during {job.phase}", level="error")
            log.warning("job %s: worker %s was lost during %s", job.id, job.worker, job.phase)
        return len(lost)


def give_up_after_failures(session: Session, job_id: UUID) -> None:
    """Skip what a failing job holds when it is the last of too many in a row: it may be what makes them fail."""
    if jobs.failures_in_a_row(session) + 1 >= MOST_FAILURES:
        reason: Reason = "failed_jobs"
        count = claims.abandon(session, job_id, reason)
        events.say(session, job_id, f"{count} interactions are given up after {MOST_FAILURES} failures", level="error")


def overrun(store: Store, job_id: UUID, fence: int) -> Callable[[str, str], None]:
    """Make what the watch says last of a phase that hangs."""

    def report(phase: str, doing: str) -> None:
        with store.session() as session:
            give_up_after_failures(session, job_id)
            error = f"the phase {phase} took longer than LEPO_PHASE_DEADLINE allows; the worker was ended"
            diagnosis = {"phase": phase, "doing": doing[-8000:]}
            jobs.finish(session, job_id, fence, "failed", error=error, diagnosis=diagnosis)
            events.say(session, job_id, error, level="error")

    return report


def summary(error: BaseException) -> str:
    """Write an error in a line."""
    return f"{type(error).__name__}: {error}"


def plain(value: Any) -> Any:
    """Make figures JSON: mappings and sequences all the way down, and no NaN or infinity but as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
