"""The ledger of grades, and the one reward that follows from it.

The reward of an answer is the mean, over its graders, of each grader's latest value. A grader is a pair (kind, id). Its
later entry supersedes its earlier one; `retracted` takes its word back; `failed` says nothing, so it neither counts as
zero nor covers an earlier value; `corrected` says what the answer should have been and gives no number; an entry that
does not count (`counts`), or came with a key in quarantine (`app.store.trust`), is kept and shown, no more. Values are
kept as given: any finite number, never clamped. A grade of the whole session (`app.store.episodes`) stands in the
ledger of each turn it credits, with its credit, as a grader of its own.

The same in SQL, as views: `latest_grades`, and over it `effective_grades`. Both are queried by interaction, so that
Postgres reads the ledger's index and never the whole ledger. Leaves out graders that compute (`training.graders`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Integer,
    MetaData,
    Table,
    Uuid,
    any_,
    func,
    literal,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import DateTime, Text

from app.errors import NotFound
from app.identifiers import show
from app.store.tables import Grade, Interaction

VIEWS: Final = MetaData()  # apart from the tables' metadata, which migrations are compared with
LATEST: Final = Table(
    "latest_grades",
    VIEWS,
    Column("id", Uuid),
    Column("interaction_id", Uuid),
    Column("grader_kind", Text),
    Column("grader_id", Text),
    Column("api_key_id", Text),
    Column("value", Float),
    Column("created_at", DateTime(timezone=True)),
    Column("credit", Float),
)
CORRECTIONS: Final = Table(
    "latest_corrections",
    VIEWS,
    Column("interaction_id", Uuid),
    Column("api_key_id", Text),
    Column("correction", Text),
    Column("entry", BigInteger),
    Column("created_at", DateTime(timezone=True)),
)
EFFECTIVE: Final = Table(
    "effective_grades",
    VIEWS,
    Column("interaction_id", Uuid),
    Column("reward", Float),
    Column("graders", Integer),
    Column("first_graded_at", DateTime(timezone=True)),
    Column("last_graded_at", DateTime(timezone=True)),
)


@dataclass(frozen=True, slots=True)
class Reward:
    """What all graders together think of an answer now."""

    value: float  # mean of each grader's latest value
    graders: int  # >= 1
    first_graded_at: datetime  # of the oldest value that counts
    last_graded_at: datetime


@dataclass(frozen=True, slots=True)
class Entry:
    """A grade as it arrives.

    Example: `Entry("client", "3f9k2m", value=1.0, comment="right")`.
    """

    grader_kind: str  # client, user, string_check, math, multi, ...
    grader_id: str  # who, within the kind
    state: str = "graded"  # graded, corrected, failed or retracted
    value: float | None = None  # any finite number when graded, else None
    grader_version: str | None = None
    comment: str | None = None
    correction: str | None = None  # what the answer should have been
    api_key_id: str | None = None  # the key it came with; None: this server graded
    source: str = "caller"  # caller, scoped or request; see `app.store.tables.Grade`
    counts: bool = True  # whether it makes rewards


def add_grade(session: Session, interaction_id: UUID, entry: Entry) -> Grade:
    """Append an entry to an answer's ledger, however late, and bring the answer's queue columns up to date.

    Entries for one answer are written one after another: its row is locked until the transaction ends.

    Raises:
        NotFound: there is no such interaction.
        ValueError: a value that is not finite, a value without `graded`, or the reverse.

    """
    if (entry.state == "graded") != (entry.value is not None):
        raise ValueError("a grade has a value, and a failed, retracted or merely correcting one has none")
    if entry.state == "corrected" and not entry.correction:
        raise ValueError("a correction says what the answer should have been")
    if entry.value is not None and not math.isfinite(entry.value):
        raise ValueError("a grade's value must be a finite number")
    locked = select(Interaction.id).where(Interaction.id == interaction_id).with_for_update(key_share=True)
    if session.scalar(locked) is None:
        raise NotFound(f"There is no interaction {show('int', interaction_id)}")
    before = latest_entry(session, interaction_id, entry.grader_kind, entry.grader_id)
    grade = Grade(
        interaction_id=interaction_id,
        state=entry.state,
        value=entry.value,
        grader_kind=entry.grader_kind,
        grader_id=entry.grader_id,
        grader_version=entry.grader_version,
        comment=entry.comment,
        correction=entry.correction,
        supersedes_id=before.id if before else None,
        api_key_id=entry.api_key_id,
        source=entry.source,
        counts=entry.counts,
    )
    session.add(grade)
    session.flush()
    note_graded(session, interaction_id)
    return grade


def retract(session: Session, interaction_id: UUID, entry: Entry) -> Grade:
    """Take a grader's word back.

    Raises:
        NotFound: this grader has said nothing about this answer.

    """
    before = latest_entry(session, interaction_id, entry.grader_kind, entry.grader_id)
    if before is None or before.state == "retracted":
        raise NotFound(
            f"{entry.grader_kind} {entry.grader_id} has no grade on {show('int', interaction_id)} to take back"
        )
    return add_grade(session, interaction_id, entry)


def latest_entry(session: Session, interaction_id: UUID, grader_kind: str, grader_id: str) -> Grade | None:
    """Read a grader's last entry on an answer, whatever its state."""
    query = (
        select(Grade)
        .where(Grade.interaction_id == interaction_id, Grade.grader_kind == grader_kind, Grade.grader_id == grader_id)
        .order_by(Grade.entry.desc())
        .limit(1)
    )
    return session.scalar(query)


def ledger(
    session: Session, interaction_id: UUID, *, limit: int | None = None, after: UUID | None = None
) -> list[Grade]:
    """Read the entries on an answer in the order of writing: all, or `limit` of them, or those after an entry's id."""
    query = select(Grade).where(Grade.interaction_id == interaction_id).order_by(Grade.entry).limit(limit)
    if after is not None:
        last = select(Grade.entry).where(Grade.id == after, Grade.interaction_id == interaction_id)
        query = query.where(Grade.entry > last.scalar_subquery())
    return list(session.scalars(query))


def rewards(session: Session, interaction_ids: Sequence[UUID]) -> dict[UUID, Reward]:
    """Compute the rewards of answers; those without an effective grade are left out."""
    if not interaction_ids:
        return {}
    wanted = any_(literal(list(interaction_ids), ARRAY(Uuid)))
    rows = session.execute(select(EFFECTIVE).where(EFFECTIVE.c.interaction_id == wanted))
    return {
        row.interaction_id: Reward(float(row.reward), row.graders, row.first_graded_at, row.last_graded_at)
        for row in rows
    }


def own_rewards(session: Session, interaction_ids: Sequence[UUID]) -> dict[UUID, Reward]:
    """Compute what grades of answers themselves come to, those of their sessions left out."""
    if not interaction_ids:
        return {}
    wanted = any_(literal(list(interaction_ids), ARRAY(Uuid)))
    at = LATEST.c.created_at
    query = (
        select(LATEST.c.interaction_id, func.avg(LATEST.c.value), func.count(), func.min(at), func.max(at))
        .where(LATEST.c.interaction_id == wanted, LATEST.c.credit.is_(None))
        .group_by(LATEST.c.interaction_id)
    )
    return {one: Reward(float(value), *rest) for one, value, *rest in session.execute(query)}


def corrections(session: Session, interaction_ids: Sequence[UUID]) -> dict[UUID, str]:
    """Read what answers should have been, by the last who said so; those nobody corrected are left out."""
    if not interaction_ids:
        return {}
    wanted = any_(literal(list(interaction_ids), ARRAY(Uuid)))
    query = select(CORRECTIONS).where(CORRECTIONS.c.interaction_id == wanted).order_by(CORRECTIONS.c.entry)
    return {row.interaction_id: row.correction for row in session.execute(query)}


def graded_by(session: Session, interaction_ids: Sequence[UUID]) -> dict[UUID, set[str]]:
    """Find the API keys whose grades or corrections count on each answer; one by this server has no key: left out."""
    if not interaction_ids:
        return {}
    wanted = any_(literal(list(interaction_ids), ARRAY(Uuid)))
    query = union_all(
        *(
            select(one.c.interaction_id, one.c.api_key_id).where(
                one.c.interaction_id == wanted, one.c.api_key_id.is_not(None)
            )
            for one in (LATEST, CORRECTIONS)
        )
    )
    found: dict[UUID, set[str]] = {}
    for interaction_id, key in session.execute(query):
        found.setdefault(interaction_id, set()).add(key)
    return found


def note_graded(session: Session, *interaction_ids: UUID) -> None:
    """Repeat on answers' rows their rewards, since when, of whom, and whom they count for: the index of work."""
    mine = EFFECTIVE.c.interaction_id == Interaction.id
    graded = select(EFFECTIVE.c.first_graded_at).where(mine).correlate(Interaction).scalar_subquery()
    corrected = select(func.min(CORRECTIONS.c.created_at)).where(CORRECTIONS.c.interaction_id == Interaction.id)
    first = func.least(graded, corrected.correlate(Interaction).scalar_subquery())
    reward = select(EFFECTIVE.c.reward).where(mine).correlate(Interaction).scalar_subquery()
    shared = select(LATEST.c.id).where(LATEST.c.interaction_id == Interaction.id, LATEST.c.credit.is_not(None))
    said = union_all(
        *(
            select(one.c.api_key_id, one.c.created_at)
            .where(one.c.interaction_id == Interaction.id)
            .correlate(Interaction)
            for one in (LATEST, CORRECTIONS)
        )
    ).subquery()
    keyed = select(said.c.api_key_id).where(said.c.api_key_id.is_not(None))
    last_key = keyed.order_by(said.c.created_at.desc()).limit(1).scalar_subquery()
    session.execute(
        update(Interaction)
        .where(Interaction.id == any_(literal(list(interaction_ids), ARRAY(Uuid))))
        .values(
            graded_at=first,
            reward=reward,
            credited=shared.correlate(Interaction).exists(),
            charged_key_id=func.coalesce(last_key, Interaction.api_key_id, ""),
        )
        .execution_options(synchronize_session=False)
    )
