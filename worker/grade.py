"""Server-side grading: answers whose request named a grader get their entry in the ledger.

One answer, one transaction: its row stays locked while its grader runs, so two workers never grade the same one, and a
worker that dies leaves it as it was. A grader that fails is tried again, then recorded as failed with its reason; it
never becomes a zero. Leaves out the graders themselves (`training.graders`).
"""

import logging
import time
from collections import Counter
from typing import Final, Literal
from uuid import UUID

from sqlalchemy.orm import Session

from app.store.grades import Entry, add_grade
from app.store.interactions import settle_grading, take_pending
from app.store.tables import Interaction
from training.graders.grader import Grader
from training.graders.parse import parse_grader
from training.graders.verdict import Failed, Graded, Verdict
from worker.context import Context

MOST_ATTEMPTS: Final = 3  # runs of a failing grader before its failure is final

State = Literal["graded", "none", "failed", "pending"]

log = logging.getLogger(__name__)


def grade(context: Context) -> Counter[State]:
    """Run the graders that wait, each at most once, for no longer than the time between two looks for work.

    Returns:
        How many came to which state; `pending` are those to be tried again.

    """
    until = time.monotonic() + context.settings.learn_interval
    seen: set[UUID] = set()
    states: Counter[State] = Counter()
    while time.monotonic() < until and not context.stopping.is_set():
        with context.store.session() as session:
            found = take_pending(session, 1)
            if not found or found[0].id in seen:
                break
            seen.add(found[0].id)
            states[settle(session, found[0], context.settings.grader_timeout)] += 1
    if states:
        log.info("graded: %s", dict(states))
    return states


def settle(session: Session, row: Interaction, deadline_s: float) -> State:
    """Grade one answer, in the caller's transaction.

    Args:
        session: holds the lock on the row.
        row: an answer whose grading is pending.
        deadline_s: seconds its grader may take.

    """
    grader, verdict = judge(row, deadline_s)
    final = grader is None or row.grading_attempts + 1 >= MOST_ATTEMPTS
    state: State = "none"
    if isinstance(verdict, Graded):
        state = "graded"
    elif isinstance(verdict, Failed):
        state = "failed" if final else "pending"
    if state in {"graded", "failed"}:
        add_grade(session, row.id, entry(row, grader, verdict))
    settle_grading(session, row.id, state)
    return state


def judge(row: Interaction, deadline_s: float) -> tuple[Grader | None, Verdict]:
    """Run the grader an answer's request named; a spec that cannot be read fails at once."""
    try:
        grader = parse_grader(row.grader or {})
    except ValueError as error:
        return None, Failed(str(error))
    return grader, grader.grade(row.answer, deadline_s)


def entry(row: Interaction, grader: Grader | None, verdict: Verdict) -> Entry:
    """Write a verdict as the ledger keeps it."""
    kind = str((row.grader or {}).get("type", "unknown"))
    graded = isinstance(verdict, Graded)
    return Entry(
        grader_kind=kind if grader is None else grader.kind,
        grader_id=kind if grader is None else grader.name,
        grader_version=None if grader is None else grader.version,
        state="graded" if graded else "failed",
        value=verdict.value if isinstance(verdict, Graded) else None,
        comment=(verdict.detail if isinstance(verdict, Graded) else verdict.reason) or None,
    )
