"""Interactions: answers committed before their ids leave, found again by id, by response, by time.

Leaves out what was thought of them (`app.store.grades`, `app.store.grading`) and what was learned from them
(`app.store.claims`).
"""

import logging
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.errors import NotFound
from app.identifiers import first_of, show
from app.store.grades import Reward, rewards
from app.store.projects import project_of
from app.store.tables import Checkpoint, Claim, Interaction, StoredRollout
from app.store.traces import TraceFiles, TraceLost

log = logging.getLogger(__name__)

LARGEST_PAGE: Final = 1000
MOST_LOOKED_AT: Final = 10_000  # answers of which a page shows some
SKEW_S: Final = 3600.0  # between a server's clock, by which ids are made, and the database's


@dataclass(frozen=True, slots=True)
class Filters:
    """What a listing shows; None leaves a condition out."""

    since: datetime | None = None  # created at or after
    until: datetime | None = None  # created before
    graded: bool | None = None  # whether it has an effective grade
    api_key_id: str | None = None  # the key that asked
    completion_id: str | None = None  # the response it belongs to
    policy_version: int | None = None
    user_tag: str | None = None
    learned_by: int | None = None  # version of the policy that was made from it
    project_id: str | None = None  # of the key that asked
    shadow: bool | None = False  # whether nobody saw it: a second answer of a policy on trial; None: both kinds


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a listing, the newest first."""

    items: tuple[tuple[Interaction, Reward | None], ...]  # with the effective reward, if any
    next_after: UUID | None  # where the next page begins; None: this was the last


def record(
    session: Session,
    interaction: Interaction,
    *,
    codec: int | None = None,
    payload: bytes | None = None,
    files: TraceFiles | None = None,
) -> None:
    """Write an answer and, if it can be learned from, its rollout. The id exists afterwards (`interaction.id`).

    Its project is that of its key, whatever it says.

    Args:
        session: a transaction; commit it before the id leaves.
        interaction: not yet stored; the request it names is (`app.store.requests`), or comes with it (`asked`).
        codec: version of the rollout's byte codec.
        payload: the rollout; None for an answer that cannot be learned from.
        files: where rollouts are kept apart from their rows; None: they are not.

    Raises:
        ValueError: learnable without a rollout.
        OSError: the rollout's file cannot be written.
        sqlalchemy.exc.IntegrityError: this choice of this response is stored already.

    """
    if interaction.learnable and (codec is None or payload is None):
        raise ValueError("an answer without a rollout cannot be learnable: say why in unlearnable_reason")
    interaction.project_id = project_of(interaction.api_key_id)  # read in the INSERT itself
    session.add(interaction)
    session.flush()
    if codec is not None and payload is not None:
        stored = StoredRollout(interaction_id=interaction.id, codec=codec, learnable=interaction.learnable)
        if files is None:
            stored.payload = payload
        else:
            kept = files.write(interaction.id, payload)
            stored.address, stored.sha256, stored.file_bytes = kept.address, kept.sha256, len(payload)
        session.add(stored)
        session.flush()


def get_interaction(session: Session, interaction_id: UUID) -> Interaction:
    """Read one.

    Raises:
        NotFound: there is none with this id.

    """
    row = session.get(Interaction, interaction_id)
    if row is None:
        raise NotFound(f"There is no interaction {show('int', interaction_id)}")
    return row


def choices(session: Session, completion_id: str) -> list[Interaction]:
    """Read the answers of one response, by choice."""
    query = select(Interaction).where(Interaction.completion_id == completion_id).order_by(Interaction.choice)
    return list(session.scalars(query))


def fate(session: Session, interaction_id: UUID) -> tuple[Claim, Checkpoint | None] | None:
    """Read what became of an answer in learning: its claim, and the policy that was made; None: it is not claimed."""
    query = (
        select(Claim, Checkpoint)
        .outerjoin(Checkpoint, Checkpoint.job_id == Claim.job_id)
        .where(Claim.interaction_id == interaction_id)
    )
    row = session.execute(query).one_or_none()
    return None if row is None else (row[0], row[1])


def rollout(session: Session, interaction_id: UUID) -> StoredRollout | None:
    """Read an answer's trace; None if none was kept."""
    return session.get(StoredRollout, interaction_id)


def conditions(wanted: Filters) -> list[ColumnElement[bool]]:
    """Say in SQL what a listing shows.

    Times bound ids too, since an id begins with its server's time: so pages are found by the order of ids alone.
    """
    found: list[ColumnElement[bool]] = []
    if wanted.since is not None:
        found += [Interaction.created_at >= wanted.since, Interaction.id >= first_of(wanted.since, -SKEW_S)]
    if wanted.until is not None:
        found += [Interaction.created_at < wanted.until, Interaction.id < first_of(wanted.until, SKEW_S)]
    if wanted.graded is not None:
        found.append(Interaction.graded_at.is_not(None) if wanted.graded else Interaction.graded_at.is_(None))
    if wanted.shadow is not None:
        found.append(Interaction.shadow_of.is_not(None) if wanted.shadow else Interaction.shadow_of.is_(None))
    if wanted.learned_by is not None:
        made = select(Checkpoint.job_id).where(Checkpoint.version == wanted.learned_by)
        learned = select(Claim.interaction_id).where(Claim.outcome == "learned", Claim.job_id.in_(made))
        found.append(Interaction.id == func.any(func.array(learned.scalar_subquery())))
    found += [column == value for column, value in equalities(wanted)]
    if wanted.completion_id is not None:
        found.append(Interaction.completion_id == wanted.completion_id)
    return found


def equalities(wanted: Filters) -> list[tuple[InstrumentedAttribute[Any], Any]]:
    """Give the columns that must have one value, those first of which an index holds the fewest answers."""
    columns = (
        (Interaction.user_tag, wanted.user_tag),
        (Interaction.policy_version, wanted.policy_version),
        (Interaction.api_key_id, wanted.api_key_id),
        (Interaction.project_id, wanted.project_id),
    )
    return [(column, value) for column, value in columns if value is not None]


def last_looked_at(session: Session, wanted: Filters, after: UUID | None) -> tuple[UUID | None, bool]:
    """Find how far a page may look where no index holds just what it shows.

    One condition has an index in the order of ids; answers that it finds are looked through for the others.

    Returns:
        The last answer the page may look at, None: it looks at all; and whether there is another behind it.

    """
    if wanted.completion_id is not None or wanted.learned_by is not None:
        return None, False  # few answers
    equal = [column == value for column, value in equalities(wanted)]
    if wanted.shadow:
        equal.insert(0, Interaction.shadow_of.is_not(None))
    if len(equal) + (wanted.graded is not None) < (2 if equal else 1):
        return None, False
    times = replace(Filters(shadow=None), since=wanted.since, until=wanted.until)
    query = select(Interaction.id).where(*equal[:1], *conditions(times)).order_by(Interaction.id.desc())
    if after is not None:
        query = query.where(Interaction.id < after)
    found = list(session.scalars(query.offset(MOST_LOOKED_AT - 1).limit(2)))
    return (found[0], len(found) > 1) if found else (None, False)


def list_interactions(
    session: Session, filters: Filters | None = None, *, limit: int = 50, after: UUID | None = None
) -> Page:
    """List answers, the newest first.

    A page looks at `MOST_LOOKED_AT` answers at most, so that it costs the same however many there are: it may be short,
    even empty, and still say where the next one begins.

    Args:
        session: a transaction.
        filters: conditions; None: all.
        limit: 1 to 1000 answers.
        after: the id the page before ended with (`Page.next_after`).

    Raises:
        ValueError: `limit` is out of range.

    """
    if not 1 <= limit <= LARGEST_PAGE:
        raise ValueError(f"limit must be between 1 and {LARGEST_PAGE}")
    wanted = filters or Filters()
    query = select(Interaction).where(*conditions(wanted)).order_by(Interaction.id.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(Interaction.id < after)
    last, more = last_looked_at(session, wanted, after)
    if last is not None:
        query = query.where(Interaction.id >= last)
    rows = list(session.scalars(query))
    shown = rows[:limit]
    found = rewards(session, [row.id for row in shown])
    next_after = shown[-1].id if len(rows) > limit else last if more else None
    return Page(items=tuple((row, found.get(row.id)) for row in shown), next_after=next_after)


def bytes_of(stored: StoredRollout) -> bytes | None:
    """Read a rollout's bytes; None, and a line in the log, where its file is lost: its answer is not learned from."""
    try:
        return stored.payload
    except TraceLost as error:
        log.warning("%s", error.message)
        return None
