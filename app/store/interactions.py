"""Interactions: answers committed before their ids leave, found again by id, by response, by time.

Leaves out what was thought of them (`app.store.grades`, `app.store.grading`) and what was learned from them
(`app.store.claims`).
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from app.errors import NotFound
from app.identifiers import show
from app.store.grades import Reward, rewards
from app.store.projects import project_of
from app.store.tables import Checkpoint, Claim, Interaction, StoredRollout

LARGEST_PAGE = 1000


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
    session: Session, interaction: Interaction, *, codec: int | None = None, payload: bytes | None = None
) -> None:
    """Write an answer and, if it can be learned from, its rollout. The id exists afterwards (`interaction.id`).

    Its project is that of its key, whatever it says.

    Args:
        session: a transaction; commit it before the id leaves.
        interaction: not yet stored.
        codec: version of the rollout's byte codec.
        payload: the rollout; None for an answer that cannot be learned from.

    Raises:
        ValueError: learnable without a rollout.
        sqlalchemy.exc.IntegrityError: this choice of this response is stored already.

    """
    if interaction.learnable and (codec is None or payload is None):
        raise ValueError("an answer without a rollout cannot be learnable: say why in unlearnable_reason")
    interaction.project_id = project_of(interaction.api_key_id)  # read in the INSERT itself
    session.add(interaction)
    session.flush()
    if codec is not None and payload is not None:
        kept = interaction.learnable
        session.add(StoredRollout(interaction_id=interaction.id, codec=codec, payload=payload, learnable=kept))
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
    """Say in SQL what a listing shows."""
    found: list[ColumnElement[bool]] = []
    if wanted.since is not None:
        found.append(Interaction.created_at >= wanted.since)
    if wanted.until is not None:
        found.append(Interaction.created_at < wanted.until)
    if wanted.graded is not None:
        found.append(Interaction.graded_at.is_not(None) if wanted.graded else Interaction.graded_at.is_(None))
    if wanted.shadow is not None:
        found.append(Interaction.shadow_of.is_not(None) if wanted.shadow else Interaction.shadow_of.is_(None))
    if wanted.learned_by is not None:
        made = select(Checkpoint.job_id).where(Checkpoint.version == wanted.learned_by)
        learned = select(Claim.interaction_id).where(Claim.outcome == "learned", Claim.job_id.in_(made))
        found.append(Interaction.id.in_(learned))
    for column, value in (
        (Interaction.api_key_id, wanted.api_key_id),
        (Interaction.project_id, wanted.project_id),
        (Interaction.completion_id, wanted.completion_id),
        (Interaction.policy_version, wanted.policy_version),
        (Interaction.user_tag, wanted.user_tag),
    ):
        if value is not None:
            found.append(column == value)
    return found


def list_interactions(
    session: Session, filters: Filters | None = None, *, limit: int = 50, after: UUID | None = None
) -> Page:
    """List answers, the newest first.

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
    query = select(Interaction).order_by(Interaction.id.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(Interaction.id < after)
    query = query.where(*conditions(wanted))
    rows = list(session.scalars(query))
    shown = rows[:limit]
    found = rewards(session, [row.id for row in shown])
    return Page(
        items=tuple((row, found.get(row.id)) for row in shown),
        next_after=shown[-1].id if len(rows) > limit else None,
    )
