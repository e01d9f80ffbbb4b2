"""Lineage: which policies a policy descends from, and which answers are in it.

A policy contains what it and its ancestors were made from; that is asked of `parent_id`, never of version numbers. An
answer that was removed since is counted by its claim and its tombstone.
Leaves out what happened to a policy since (`app.store.policy_life`).
"""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import CTE, func, select
from sqlalchemy.orm import Session

from app.store.grades import EFFECTIVE, LATEST
from app.store.removed import Tombstone
from app.store.tables import Checkpoint, Claim, Interaction, Job

SERVER: Final = "server"  # stands for grades of this server's own graders, which come with no key


@dataclass(frozen=True, slots=True)
class Ancestor:
    """One policy of a lineage, and what it added to its parent."""

    checkpoint: Checkpoint
    learned: int  # answers it was made from
    reward: float | None  # mean of their rewards now; None if there are none
    config: dict[str, Any]  # settings that differed from the service's in the job that made it


@dataclass(frozen=True, slots=True)
class Contents:
    """All that went into a policy, over its whole lineage."""

    answers: int
    by_key: dict[str, int]  # API key whose grades count -> answers; `server`: graded here
    by_grader: dict[str, int]  # kind of grader -> answers
    first_answer_at: datetime | None
    last_answer_at: datetime | None


def line(checkpoint_id: UUID) -> CTE:
    """Give a policy and its ancestors as a table with one column, `id`."""
    found = (
        select(Checkpoint.id, Checkpoint.parent_id).where(Checkpoint.id == checkpoint_id).cte("line", recursive=True)
    )
    parent = select(Checkpoint.id, Checkpoint.parent_id).join(found, Checkpoint.id == found.c.parent_id)
    return found.union_all(parent)


def contains(session: Session, checkpoint_id: UUID, other: UUID) -> bool:
    """Tell whether a policy is another one or descends from it."""
    found = line(checkpoint_id)
    return session.scalar(select(found.c.id).where(found.c.id == other)) is not None


def ancestors(session: Session, checkpoint_id: UUID) -> list[Ancestor]:
    """List a policy and its ancestors, the policy itself first."""
    found = line(checkpoint_id)
    reward = func.avg(func.coalesce(EFFECTIVE.c.reward, Tombstone.reward)).label("reward")
    learned = (
        select(Claim.job_id, func.count().label("answers"), reward)
        .join(Job, Job.id == Claim.job_id)
        .join(Checkpoint, Checkpoint.job_id == Job.id)
        .join(found, found.c.id == Checkpoint.id)
        .outerjoin(EFFECTIVE, EFFECTIVE.c.interaction_id == Claim.interaction_id)
        .outerjoin(Tombstone, Tombstone.interaction_id == Claim.interaction_id)
        .where(Claim.outcome == "learned")
        .group_by(Claim.job_id)
        .subquery()
    )
    query = (
        select(Checkpoint, func.coalesce(learned.c.answers, 0), learned.c.reward, Job.config)
        .join(found, found.c.id == Checkpoint.id)
        .outerjoin(learned, learned.c.job_id == Checkpoint.job_id)
        .outerjoin(Job, Job.id == Checkpoint.job_id)
        .order_by(Checkpoint.version.desc())
    )
    return [
        Ancestor(row, count, None if reward is None else float(reward), config or {})
        for row, count, reward, config in session.execute(query)
    ]


def contents(session: Session, checkpoint_id: UUID) -> Contents:
    """Count what went into a policy."""
    found = line(checkpoint_id)
    inside = (
        select(Claim.interaction_id)
        .join(Checkpoint, Checkpoint.job_id == Claim.job_id)
        .join(found, found.c.id == Checkpoint.id)
        .where(Claim.outcome == "learned")
    )
    answered = func.coalesce(Interaction.created_at, Tombstone.answered_at)
    total, first, last = session.execute(
        select(func.count(), func.min(answered), func.max(answered))
        .select_from(Claim)
        .outerjoin(Interaction, Interaction.id == Claim.interaction_id)
        .outerjoin(Tombstone, Tombstone.interaction_id == Claim.interaction_id)
        .where(Claim.interaction_id.in_(inside))
    ).one()

    def counted(column: Any, buried: Any) -> dict[str, int]:
        there = (
            select(func.coalesce(column, SERVER), func.count(LATEST.c.interaction_id.distinct()))
            .where(LATEST.c.interaction_id.in_(inside))
            .group_by(column)
        )
        named = select(func.unnest(buried).label("name")).where(Tombstone.interaction_id.in_(inside)).subquery()
        gone = select(named.c.name, func.count()).group_by(named.c.name)
        counts: Counter[str] = Counter()
        for found in (there, gone):
            counts.update({str(one): count for one, count in session.execute(found)})
        return dict(counts)

    keys, kinds = (
        counted(LATEST.c.api_key_id, Tombstone.grader_keys),
        counted(LATEST.c.grader_kind, Tombstone.grader_kinds),
    )
    return Contents(total, keys, kinds, first, last)


def count_learned(session: Session, checkpoint_id: UUID | None) -> tuple[int, int]:
    """Count answers that a policy contains, and those that only other policies do (abandoned by a rollback)."""
    learned = select(func.count()).select_from(Claim).where(Claim.outcome == "learned")
    total = session.scalars(learned).one()
    if checkpoint_id is None:
        return 0, total
    found = line(checkpoint_id)
    jobs = select(Checkpoint.job_id).join(found, found.c.id == Checkpoint.id)
    inside = session.scalars(learned.where(Claim.job_id.in_(jobs))).one()
    return inside, total - inside
