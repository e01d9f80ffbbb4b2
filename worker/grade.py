"""Server-side grading: answers whose request named a grader get their entry in the ledger.

Take an answer under a lease, run its grader outside of any transaction, record what it said. A grader that fails is
tried again, then recorded as failed with its reason; it never becomes a zero, and it never disappears. Leaves out the
graders themselves (`training.graders`) and the queue (`app.store.grading`).
"""

import logging
import time
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

from app.identifiers import show
from app.settings import Settings
from app.store.grades import Entry
from app.store.grading import Taken, fail_the_rest, settle, take, try_again
from app.store.projects import spend_grading, spent_until
from app.telemetry.told import GradeTold
from training.graders.grader import Grader
from training.graders.parse import parse_grader
from training.graders.verdict import Failed, Graded, Verdict
from worker.resident import Context

MOST_ATTEMPTS: Final = 3  # runs of a failing grader before its failure is final
MOST_LOST: Final = 6  # times an answer is taken at all: beyond it, grading it is what ends its workers
PLAINEST: Final = "0"  # an answer that costs nothing
PAUSE_S: Final = 5.0  # before a failed grader is tried again
LEASE_S: Final = 30.0  # beyond the grader's own time, three times over: for starting processes, and for the database

State = Literal["graded", "none", "failed", "pending", "lost"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of running a grader once."""

    grader: Grader | None  # None: the spec cannot be read
    verdict: Verdict
    again: bool = False  # whether another try may end otherwise
    for_all: bool = False  # whether every choice of the response would end the same


def grade(context: Context) -> Counter[State]:
    """Run the graders that wait, for no longer than the time between two looks for work.

    Returns:
        How many came to which state; `pending` are those to be tried again, `lost` those another worker has by now.

    """
    until = time.monotonic() + context.settings.learn_interval
    lease = timedelta(seconds=3 * context.settings.grader_timeout + LEASE_S)
    states: Counter[State] = Counter()
    while time.monotonic() < until and not context.stopping.is_set():
        with context.store.session() as session:
            taken = take(session, lease, turn=states.total())
        if taken is None:
            break
        states[one(context, taken)] += 1
    if states:
        log.info("graded: %s", dict(states))
    return states


def one(context: Context, taken: Taken) -> State:
    """Grade one answer and record what came of it; tomorrow, where its project has no time for graders left."""
    with context.store.session() as session:
        if (tomorrow := spent_until(session, taken.project, context.settings)) is not None:
            return "pending" if try_again(session, taken, tomorrow) else "lost"
    began = time.monotonic()
    outcome = judge(taken, context.settings.grader_timeout)
    took = time.monotonic() - began
    made = entry(taken, outcome, context.settings)
    with context.store.session() as session:
        spend_grading(session, taken.project, took)
        if outcome.again:
            return "pending" if try_again(session, taken, timedelta(seconds=PAUSE_S)) else "lost"
        state: Literal["graded", "none", "failed"] = "none"
        if isinstance(outcome.verdict, Graded):
            state = "graded"
        elif isinstance(outcome.verdict, Failed):
            state = "failed"
        if not settle(session, taken, state, None if state == "none" else made):
            return "lost"
        if outcome.for_all:
            fail_the_rest(session, taken, made)
    if state != "none":
        context.telemetry.graded(told(taken, made))
    return state


def told(taken: Taken, made: Entry) -> GradeTold:
    """Write down what a collector may hear of a verdict."""
    completion_id = taken.completion_id.partition(".")[0]  # a response of several prompts has a group for each
    shown = show("int", taken.id)
    return GradeTold(made.grader_kind, made.value, made.state, made.comment, completion_id, shown)


def judge(taken: Taken, deadline_s: float) -> Outcome:
    """Run the grader an answer's request named."""
    try:
        grader = parse_grader(taken.grader)
    except ValueError as error:
        return Outcome(None, Failed(str(error)), for_all=True)
    if taken.attempt > MOST_LOST:
        why = "the workers that graded this answer ended before they had a verdict, every time"
        return Outcome(grader, Failed(why))
    verdict = grader.grade(taken.answer, deadline_s)
    if not isinstance(verdict, Failed):
        return Outcome(grader, verdict)
    if verdict.overran and overruns_on_anything(grader, deadline_s):
        return Outcome(grader, Failed(f"{verdict.reason}, on any answer: name a simpler reference"), for_all=True)
    return Outcome(grader, verdict, again=taken.attempt < MOST_ATTEMPTS)


def overruns_on_anything(grader: Grader, deadline_s: float) -> bool:
    """Tell whether a grader overruns on the plainest answer too, in twice the time: then it is not the answer."""
    verdict = grader.grade(PLAINEST, 2 * deadline_s)
    return isinstance(verdict, Failed) and verdict.overran


def entry(taken: Taken, outcome: Outcome, settings: Settings) -> Entry:
    """Write a verdict as the ledger keeps it."""
    grader, verdict = outcome.grader, outcome.verdict
    kind = str(taken.grader.get("type", "unknown"))
    graded = isinstance(verdict, Graded)
    return Entry(
        grader_kind=kind if grader is None else grader.kind,
        grader_id=kind if grader is None else grader.name,
        grader_version=None if grader is None else grader.version,
        state="graded" if graded else "failed",
        value=verdict.value if isinstance(verdict, Graded) else None,
        comment=(verdict.detail if isinstance(verdict, Graded) else verdict.reason) or None,
        source=taken.source,
        counts=counts(taken.source, settings),
    )


def counts(source: str, settings: Settings) -> bool:
    """Whether a grader that a request named makes rewards (LEPO_REQUEST_GRADERS); `source`: whose the request was."""
    return settings.request_graders == "all" or (settings.request_graders == "scoped" and source == "scoped")
