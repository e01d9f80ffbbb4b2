"""The queue of answers whose request named a grader: one is taken under a lease, graded elsewhere, and settled.

No lock is held while a grader runs. Taking raises `grading_attempts`, which is also the fence: a result is written only
under the number it was taken with, so of two workers never both record. A worker that dies gives its answer back when
the lease is over, by the database's clock.

Three looks take turns, each served by an index that holds nothing else, so a backlog costs nothing:

    newest   answers nobody has tried, the newest first: they are nearest to the policy that learns
    oldest   the same from the other end, a quarter of the time: nobody waits for ever, however fast new ones come
    due      those whose lease or pause is over, the longest over first

Leaves out running a grader (`worker.grade`) and what a grade is worth (`app.store.grades`).
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal
from uuid import UUID

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from app.store.base import Json
from app.store.grades import Entry, add_grade
from app.store.tables import GRADING_DUE, GRADING_UNTRIED, Interaction, StoredRequest

Look = Literal["newest", "oldest", "due"]
Settled = Literal["graded", "none", "failed"]

GRADER: Final = select(StoredRequest.grader).where(StoredRequest.id == Interaction.request_id).scalar_subquery()
TURNS: Final[tuple[Look, ...]] = ("newest", "due", "newest", "oldest")


@dataclass(frozen=True, slots=True)
class Taken:
    """An answer in a worker's hands, with what its grader needs."""

    id: UUID
    completion_id: str  # of the response it belongs to; all its choices name the same grader
    answer: str
    grader: Json  # the spec
    source: str  # whether the key that named it may grade: `scoped` or `request`
    attempt: int  # this one's number, from 1; the fence
    project: str  # whose time it takes


def take(session: Session, lease: timedelta, turn: int = 0) -> Taken | None:
    """Take one answer for as long as the lease; None when none waits, and then nothing was written.

    Args:
        session: a transaction of its own; commit it before the grader runs.
        lease: after it another worker may take the answer.
        turn: counts a worker's looks, so that the three kinds take turns; when its own kind is empty the others go on.

    """
    for place in range(len(TURNS)):
        chosen = waiting(TURNS[(turn + place) % len(TURNS)]).with_for_update(skip_locked=True, key_share=True)
        query = (
            update(Interaction)
            .where(Interaction.id == chosen.scalar_subquery())
            .values(grading_attempts=Interaction.grading_attempts + 1, grading_until=func.clock_timestamp() + lease)
            .returning(
                Interaction.id,
                Interaction.completion_id,
                Interaction.answer,
                GRADER,
                Interaction.grader_source,
                Interaction.grading_attempts,
                Interaction.project_id,
            )
            .execution_options(synchronize_session=False)
        )
        row = session.execute(query).one_or_none()
        if row is not None:
            return Taken(row[0], row[1], row[2], row[3] or {}, row[4], row[5], row[6])
    return None


def waiting(look: Look) -> Select[UUID]:
    """Find the next answer of one kind."""
    query = select(Interaction.id).limit(1)
    if look == "due":
        return query.where(GRADING_DUE, Interaction.grading_until <= func.now()).order_by(Interaction.grading_until)
    created = Interaction.created_at
    return query.where(GRADING_UNTRIED).order_by(created.desc() if look == "newest" else created.asc())


def settle(session: Session, taken: Taken, state: Settled, entry: Entry | None) -> bool:
    """Write what came of it, unless somebody else has the answer by now.

    Args:
        session: a transaction.
        taken: as given by `take`.
        state: `graded`; `failed`; or `none`, when the grader had no opinion.
        entry: for the ledger; None writes none.

    Returns:
        Whether it was written.

    """
    if not held(session, taken):
        return False
    if entry is not None:
        add_grade(session, taken.id, entry)
    session.execute(
        update(Interaction).where(Interaction.id == taken.id).values(grading_state=state, grading_until=None)
    )
    return True


def try_again(session: Session, taken: Taken, pause: timedelta) -> bool:
    """Give an answer back after a failure, to be taken when the pause is over; returns whether it was still held."""
    if not held(session, taken):
        return False
    session.execute(
        update(Interaction).where(Interaction.id == taken.id).values(grading_until=func.clock_timestamp() + pause)
    )
    return True


def fail_the_rest(session: Session, taken: Taken, entry: Entry) -> int:
    """Record the same failure for the other choices of a response, whose grader is the same; returns for how many."""
    query = (
        select(Interaction.id)
        .where(Interaction.completion_id == taken.completion_id, Interaction.grading_state == "pending")
        .with_for_update(skip_locked=True, key_share=True)
    )
    rest = list(session.scalars(query))
    for one in rest:
        add_grade(session, one, entry)
    session.execute(
        update(Interaction).where(Interaction.id.in_(rest)).values(grading_state="failed", grading_until=None)
    )
    return len(rest)


def held(session: Session, taken: Taken) -> bool:
    """Lock an answer's row, if it is still pending under the number it was taken with."""
    query = select(Interaction.id).where(
        Interaction.id == taken.id,
        Interaction.grading_state == "pending",
        Interaction.grading_attempts == taken.attempt,
    )
    return session.scalar(query.with_for_update(key_share=True)) is not None
