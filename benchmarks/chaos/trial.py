"""One run of one kind: make the fault, wait until the service is well, audit.

Well means all of: an answer that was asked after the fault, a policy promoted by an update begun after it, and a
server that serves what the database says. Leaves out the kinds (`kinds`) and what is counted (`audit`).
"""

import time
from collections import Counter
from dataclasses import dataclass
from typing import Final

from benchmarks.chaos.audit import audit
from benchmarks.chaos.kinds import Kind
from benchmarks.chaos.world import NeverHappened, World

BEYOND: Final = 3.0  # times the stated recovery time after which a run is given up


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one run."""

    kind: str
    recovered_s: float | None  # None: not within `BEYOND` times the stated time
    late: bool  # later than stated
    counters: dict[str, int]  # of the audit and of the kind itself, together
    words: list[str]  # each violation, and what never happened
    seconds: float  # of it all


def run(here: World, kind: Kind) -> Run:
    """Make one fault and see what comes of it."""
    began = time.monotonic()
    here.found.clear()
    here.words.clear()
    recovered: float | None = None
    try:
        with kind.fault(here):
            recovered = recovery(here, kind.recover_s * BEYOND)
    except NeverHappened as error:
        here.words.append(f"{kind.name}: {error}")
        recovered = None
        revive(here)
    counters, words = audit(here.store, here.crowd.records, here.version, here.stack.var_dir / "checkpoints")
    return Run(
        kind=kind.name,
        recovered_s=None if recovered is None else round(recovered, 2),
        late=recovered is None or recovered > kind.recover_s,
        counters=dict(counters + Counter(here.found)) | {},
        words=[*here.words, *words],
        seconds=round(time.monotonic() - began, 1),
    )


def recovery(here: World, limit_s: float) -> float:
    """Wait until the service is well; gives the seconds it took.

    Raises:
        NeverHappened: it did not become well.

    """
    began, fence, answers = time.monotonic(), here.fence(), len(here.crowd.records.answers)

    def missing() -> str | None:
        if len(here.crowd.records.answers) <= answers:
            return "an answer"
        if not here.learned_since(fence):
            return "an update that serves"
        return None if here.version() == here.serving() else "a server that serves it"

    while (lacks := missing()) is not None:
        if time.monotonic() - began > limit_s:
            raise NeverHappened(f"not well after {limit_s:.0f} s: {lacks} is missing; {state(here)}")
        time.sleep(0.1)
    return time.monotonic() - began


def state(here: World) -> str:
    """Say in a line what the service is about."""
    control = here.rows("SELECT frozen_by, frozen_reason, refusals FROM learning")
    last = here.rows("SELECT status, phase, verdict, fault, left(error, 200) FROM jobs ORDER BY id DESC LIMIT 1")
    return f"learning {[tuple(row) for row in control]}, last job {[tuple(row) for row in last]}"


def revive(here: World) -> None:
    """Undo what a run that did not end well may have left, so that the next one is about itself."""
    here.thaw()
    for part in ("worker", "learner-2"):
        if part in here.stack.pids:
            here.stack.kill(part)
    if "learner-2" in here.stack.pids:
        here.stack.supervisor.stop_one("learner-2")
