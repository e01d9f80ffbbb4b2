"""A running job, in the hands of the worker that runs it: its phases, its diary, and how it may end.

Every write names the job's fence, so a worker that lost the job writes nothing. Leaves out what the phases do
(`worker.learn`) and which end an error leads to (`worker.faults`).
"""

import logging
import math
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID

from sqlalchemy.orm import Session

from app.errors import Cancelled, Fenced, Unavailable
from app.settings import Settings
from app.store import events, jobs, learning, policy_life
from app.store.budgets import PROMPT
from app.store.connect import Store
from training.optimization.health import UpdateRejected
from worker.claim import Assignment, lease_of
from worker.faults import INFRASTRUCTURE, Refused, end_of, environmental
from worker.watchdog import Watchdog

ACTOR: Final = "worker"  # of what jobs do to policies
MOST_FAILURES: Final = 5  # jobs in a row that may fail of an error that is no shortage, before learning is frozen

log = logging.getLogger(__name__)


@dataclass(slots=True)
class RunningJob:
    """Use as a context manager: whatever ends the block also ends the job, with what is known of why."""

    store: Store
    job_id: UUID
    fence: int
    settings: Settings
    watchdog: Watchdog
    metrics: dict[str, Any] = field(default_factory=dict)  # of the job, as far as they are known
    over: bool = False  # whether the job's end is written
    _phase: str = "claim"
    _since: float = field(default_factory=time.monotonic)

    def enter(self, phase: str) -> None:
        """Begin a phase, unless the job was cancelled, fenced or stopped meanwhile."""
        self.watchdog.check()
        self._clock()
        with self.store.session() as session:
            jobs.advance(session, self.job_id, self.fence, phase, lease_of(self.settings))
            events.say(session, self.job_id, phase)
            words = asked_to_end(session, self.job_id)
        if words is not None:
            raise Cancelled(words)
        self._phase = phase
        self.watchdog.enter(phase)

    def note(self, message: str, **figures: Any) -> None:
        """Write figures into the diary, and keep them among the job's metrics."""
        known = plain(figures)
        self.metrics |= known
        with self.store.session() as session:
            jobs.heartbeat(session, self.job_id, self.fence, lease_of(self.settings), known)
            events.measure(session, self.job_id, known, message=message)

    def rest(self, seconds: float) -> None:
        """Pause before what was tried is tried again; a try that came to its end is no hang."""
        self.watchdog.step()
        time.sleep(seconds)

    def finish(self, session: Session, status: jobs.Outcome, verdict: str | None, **more: Any) -> None:
        """Write the end, in the caller's transaction; `over` once that is committed."""
        self._clock()
        settlement = more.pop("settlement", "keep")
        metrics = plain(self.metrics)
        jobs.finish(session, self.job_id, self.fence, status, settlement, verdict=verdict, metrics=metrics, **more)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        """End a job that did not end by itself. Expected ends are swallowed; an error goes on to the caller."""
        if error is None or self.over:
            return False
        if isinstance(error, Fenced):
            log.warning("job %s was taken over: %s", self.job_id, error)
            return True
        with suppress(Unavailable, Fenced, MemoryError):  # then its lease runs out, and the next learner ends it
            self._end(error)
        return end_of(error) is not INFRASTRUCTURE

    def _end(self, error: BaseException) -> None:
        """Write why the job ended, and let the next ones be more careful where that helps."""
        end = end_of(error)
        short = end is INFRASTRUCTURE and environmental(error)
        self.metrics |= {"fault": end.fault, "shortage": short}
        with self.store.session() as session:
            self.finish(
                session,
                end.status,
                end.verdict,
                settlement=end.settlement,
                fault=end.fault,
                error=str(error) if end is not INFRASTRUCTURE else f"{type(error).__name__}: {error}",
                diagnosis=self._diagnosis(error),
            )
            if end.fault == "policy":
                self.refused(session, error.better if isinstance(error, Refused) else None)
            elif end is INFRASTRUCTURE and not short:
                freeze_if_it_always_fails(session, error)
            events.say(session, self.job_id, str(error) or type(error).__name__, level="error")
        self.over = True

    def refused(self, session: Session, better: int | None) -> None:
        """Be more careful after a refusal; and where what serves is worse than a forebear, serve that again."""
        row = jobs.get_job(session, self.job_id)
        if better is not None and row.base_checkpoint_id is not None:
            words = f"the gate found what serves to be worse than version {better}"
            figures = {"gate": self.metrics.get("gate", {})}
            back = policy_life.fall_back(session, row.base_checkpoint_id, better, words, ACTOR, figures=figures)
            what = f"version {better} serves again" if back else "it stays: a person put it there, or that one is gone"
            events.say(session, self.job_id, f"{words}; {what}", level="warning")
        learning.back_off(session, self.settings.freeze_after)

    def _diagnosis(self, error: BaseException) -> dict[str, Any] | None:
        if isinstance(error, UpdateRejected):
            return dict(plain(error.diagnosis))
        if end_of(error) is INFRASTRUCTURE:
            return {"phase": self._phase, "traceback": "".join(traceback.format_exception(error))[-8000:]}
        return self.metrics.get("gate")

    def _clock(self) -> None:
        now = time.monotonic()
        self.metrics.setdefault("seconds", {})[self._phase] = round(now - self._since, 3)
        self._since = now


def heartbeat(store: Store, assignment: Assignment) -> str | None:
    """Say that the job is alive; returns why it should end, if somebody wants that.

    Within bounds of its own: one that waits holds or wants the job's row, and whoever would take the job over as well.
    """
    with store.session(PROMPT) as session:
        jobs.heartbeat(session, assignment.job_id, assignment.fence, lease_of(assignment.settings))
        return asked_to_end(session, assignment.job_id)


def asked_to_end(session: Session, job_id: UUID) -> str | None:
    """Say whether an operator cancelled the job or froze learning."""
    if jobs.get_job(session, job_id).cancel_requested:
        return "the job was cancelled"
    control = learning.read(session)
    if control.frozen_at is not None:
        return f"learning was frozen by {control.frozen_by}: {control.frozen_reason}"
    return None


def end_lost_jobs(store: Store) -> int:
    """End jobs whose worker has given no sign of life for its lease; returns how many."""
    with store.session() as session:
        lost = jobs.end_expired(session)
        for job in lost:
            events.say(session, job.id, f"the worker {job.worker} was lost during {job.phase}", level="error")
            log.warning("job %s: worker %s was lost during %s", job.id, job.worker, job.phase)
        return len(lost)


def freeze_if_it_always_fails(session: Session, error: BaseException) -> None:
    """Stop trying what never works: nothing is lost, and somebody has to look."""
    if (failures := jobs.bugs_in_a_row(session)) >= MOST_FAILURES:
        learning.freeze(
            session, "worker", f"{failures} jobs in a row failed, the last of {type(error).__name__}: {error}"
        )


def overrun(store: Store, assignment: Assignment) -> Callable[[str, str, str], None]:
    """Make what the watchdog says last of a phase that hangs."""

    def report(phase: str, wrong: str, doing: str) -> None:
        with store.session() as session:
            error = f"the phase {phase or 'start'} {wrong}; the worker was ended"
            diagnosis = {"phase": phase, "doing": doing[-8000:]}
            ids = assignment.job_id, assignment.fence
            fault: jobs.Fault = "infrastructure"
            jobs.finish(session, *ids, "failed", "release", fault=fault, error=error, diagnosis=diagnosis)
            events.say(session, assignment.job_id, error, level="error")

    return report


def plain(value: Any) -> Any:
    """Make figures JSON: mappings and sequences all the way down, and no NaN or infinity but as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
