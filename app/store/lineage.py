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

from sqlalchemy import CTE, ColumnElement, func, select, true
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from app.store import tallies
from app.store.grades import CORRECTIONS, LATEST
from app.store.removed import Tombstone
from app.store.tables import Checkpoint, Claim, Grade, Interaction, Job

SERVER: Final = "server"  # stands for grades of this server's own graders, which come with no key


@dataclass(frozen=True, slots=True)
class Ancestor:
    """One policy of a lineage, and what it added to its parent."""

    checkpoint: Checkpoint
    learned: int  # answers it was made from
    reward: float | None  # mean of their rewards now; None if there is none
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
    """Give a policy and its ancestors as a table with one column, `id`.

    Each parent is looked up by itself: a join would read all checkpoints once for every generation.
    """
    found = (
        select(Checkpoint.id, Checkpoint.parent_id).where(Checkpoint.id == checkpoint_id).cte("line", recursive=True)
    )
    parent = aliased(Checkpoint)
    before = select(parent.parent_id).where(parent.id == found.c.parent_id).scalar_subquery()
    return found.union_all(select(found.c.parent_id, before).where(found.c.parent_id.is_not(None)))


def contains(session: Session, checkpoint_id: UUID, other: UUID) -> bool:
    """Tell whether a policy is another one or descends from it."""
    found = line(checkpoint_id)
    return session.scalar(select(found.c.id).where(found.c.id == other)) is not None


def ancestors(session: Session, checkpoint_id: UUID) -> list[Ancestor]:
    """List a policy and its ancestors, the policy itself first."""
    found = line(checkpoint_id)
    reward = func.avg(func.coalesce(Interaction.reward, Tombstone.reward)).label("reward")
    learned = (
        select(Claim.job_id, func.count().label("answers"), reward)
        .join(Checkpoint, Checkpoint.job_id == Claim.job_id)
        .join(found, found.c.id == Checkpoint.id)
        .outerjoin(Interaction, Interaction.id == Claim.interaction_id)
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
    inside = answers(checkpoint_id)
    answered = func.coalesce(Interaction.created_at, Tombstone.answered_at)
    total, first, last = session.execute(
        select(func.count(), func.min(answered), func.max(answered))
        .select_from(inside)
        .outerjoin(Interaction, Interaction.id == inside.c.interaction_id)
        .outerjoin(Tombstone, Tombstone.interaction_id == inside.c.interaction_id)
    ).one()
    by_key = count_by(session, inside, LATEST.c.api_key_id, Tombstone.grader_keys)
    by_grader = count_by(session, inside, LATEST.c.grader_kind, Tombstone.grader_kinds)
    return Contents(total, by_key, by_grader, first, last)


def answers(checkpoint_id: UUID) -> CTE:
    """Give the answers that a policy contains as a table with one column, `interaction_id`."""
    found = line(checkpoint_id)
    return (
        select(Claim.interaction_id)
        .join(Checkpoint, Checkpoint.job_id == Claim.job_id)
        .join(found, found.c.id == Checkpoint.id)
        .where(Claim.outcome == "learned")
        .cte("inside")
    )


def count_by(
    session: Session, inside: CTE, column: ColumnElement[Any], buried: InstrumentedAttribute[list[str]]
) -> dict[str, int]:
    """Count answers by who graded them: of each that is there, in the ledger's index; of the others, by tombstones.

    A join with the ledger would sort all of it.
    """
    grade = select(column.label("name")).where(LATEST.c.interaction_id == inside.c.interaction_id).distinct().lateral()
    there = select(func.coalesce(grade.c.name, SERVER), func.count()).select_from(inside.join(grade, true()))
    removed = select(Tombstone.interaction_id).join(inside, inside.c.interaction_id == Tombstone.interaction_id)
    named = select(func.unnest(buried).label("name")).where(Tombstone.interaction_id.in_(removed)).subquery()
    gone = select(named.c.name, func.count()).group_by(named.c.name)
    counts: Counter[str] = Counter()
    for query in (there.group_by(grade.c.name), gone):
        counts.update({str(name): count for name, count in session.execute(query)})
    return dict(counts)


def count_learned(session: Session, checkpoint_id: UUID | None) -> tuple[int, int]:
    """Count answers that a policy contains, and those that only other policies do (abandoned by a rollback)."""
    by_job = tallies.counts(session, "learned")
    total = sum(by_job.values())
    if checkpoint_id is None:
        return 0, total
    found = line(checkpoint_id)
    jobs = select(Checkpoint.job_id).join(found, found.c.id == Checkpoint.id)
    inside = sum(by_job.get(str(job), 0) for job in session.scalars(jobs))
    return inside, total - inside


def learned_corrections(session: Session, limit: int) -> list[tuple[Interaction, str]]:
    """Read the newest corrections that were learned from, each with the answer it corrects."""
    stands = select(CORRECTIONS.c.entry).where(CORRECTIONS.c.interaction_id == Grade.interaction_id)
    query = (
        select(Interaction, Grade.correction)
        .join(Grade, Grade.interaction_id == Interaction.id)
        .join(Claim, Claim.interaction_id == Interaction.id)
        .where(Grade.correction.is_not(None), Claim.outcome == "learned", Grade.entry.in_(stands))
        .order_by(Grade.entry.desc())
        .limit(limit)
    )
    return [(answer, str(correction)) for answer, correction in session.execute(query)]
