"""Claims: which job may learn from which interaction, at most once each.

A row of `claims` is written when a job takes an interaction and stays when the job succeeds; its primary key is the
interaction, so a second row cannot exist. A job that fails or is cancelled gives its rows back. Leaves out what is
learned (`worker`) and jobs themselves (`app.store.jobs`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from app.store.grades import Reward, graded_by, rewards
from app.store.tables import Claim, Interaction, StoredRollout

STALE = "stale"
NO_ROLLOUT = "no_rollout"


@dataclass(frozen=True, slots=True)
class Claimed:
    """An interaction a job holds, with what learning needs of it."""

    interaction: Interaction
    reward: Reward
    grader_keys: frozenset[str]  # API keys whose grades count; empty when this server graded
    codec: int  # of `payload`
    payload: bytes  # the rollout


def fresh() -> ColumnElement[bool]:
    """Say what can be learned from: graded, replayable, not yet claimed."""
    return and_(Interaction.graded_at.is_not(None), Interaction.learnable, Interaction.claimed.is_(False))


def count_fresh(session: Session, min_version: int = 0) -> int:
    """Count interactions that could be learned from now, those of policy `min_version` or newer."""
    query = select(func.count()).select_from(Interaction).where(fresh(), Interaction.policy_version >= min_version)
    return session.scalars(query).one()


def claim(session: Session, job_id: UUID, *, limit: int, min_version: int = 0, grace: timedelta) -> list[Claimed]:
    """Take fresh interactions for a job, the newest policy's first, answers to one prompt together.

    A group (the choices of one response) is taken when all its choices are graded, or when its oldest grade has waited
    for `grace`. Groups are not cut: taking stops before the group that would exceed `limit`, unless it is the first.
    Interactions of policies before `min_version` are claimed as skipped, reason `stale`. Rows that another transaction
    holds are left out.

    Args:
        session: a transaction; the claim holds from its commit on.
        job_id: the job, running.
        limit: interactions wanted at most.
        min_version: the oldest policy version worth learning from.
        grace: how long an incomplete group may wait for its remaining grades.

    Returns:
        What was taken, by response and choice; the reward is of this moment.

    """
    skip_stale(session, job_id, min_version)
    groups = ready_groups(session, limit, grace)
    query = (
        select(Interaction)
        .where(Interaction.completion_id.in_(groups), fresh())
        .order_by(Interaction.completion_id, Interaction.choice)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    locked: dict[str, list[Interaction]] = {}
    for row in session.scalars(query):
        locked.setdefault(row.completion_id, []).append(row)
    whole = [row for group, size in groups.items() for row in locked.get(group, ()) if len(locked[group]) >= size]
    write(session, job_id, [row.id for row in whole], "claimed", None)
    taken = load(session, whole)
    lost = {row.id for row in whole} - {item.interaction.id for item in taken}
    skip(session, job_id, dict.fromkeys(lost, NO_ROLLOUT))
    return taken


def ready_groups(session: Session, limit: int, grace: timedelta) -> dict[str, int]:
    """Choose groups for a claim: completion id -> fresh interactions in it, those of the newest policy first.

    When answers come faster than they are learned from, the newest are nearest to the policy that learns; the others
    wait, and are skipped as stale once they are.
    """
    waiting = select(Interaction.completion_id).where(fresh()).distinct()
    oldest = func.min(Interaction.graded_at).filter(fresh())
    size = func.count().filter(fresh())
    settled = or_(
        Interaction.graded_at.is_not(None),
        Interaction.learnable.is_(False),
        Interaction.claimed,
        Interaction.grading_state == "failed",
    )
    complete = and_(func.count().filter(settled) == func.max(Interaction.group_size))
    query = (
        select(Interaction.completion_id, size)
        .where(Interaction.completion_id.in_(waiting))
        .group_by(Interaction.completion_id)
        .having(or_(complete, oldest <= func.now() - grace))
        .order_by(func.max(Interaction.policy_version).desc(), oldest, Interaction.completion_id)
        .limit(limit)
    )
    chosen: dict[str, int] = {}
    total = 0
    for group, count in session.execute(query):
        if chosen and total + count > limit:
            break
        chosen[group] = count
        total += count
    return chosen


def skip_stale(session: Session, job_id: UUID, min_version: int) -> int:
    """Claim as skipped what is too old to learn from; returns how many."""
    query = (
        select(Interaction.id)
        .where(fresh(), Interaction.policy_version < min_version)
        .with_for_update(skip_locked=True)
    )
    stale = list(session.scalars(query))
    write(session, job_id, stale, "skipped", STALE)
    return len(stale)


def load(session: Session, rows: Sequence[Interaction]) -> list[Claimed]:
    """Add rewards and rollouts to interactions; one that lacks either is left out."""
    ids = [row.id for row in rows]
    reward, keys = rewards(session, ids), graded_by(session, ids)
    traces = {
        trace.interaction_id: trace
        for trace in session.scalars(select(StoredRollout).where(StoredRollout.interaction_id.in_(ids)))
    }
    return [
        Claimed(row, reward[row.id], frozenset(keys.get(row.id, ())), traces[row.id].codec, traces[row.id].payload)
        for row in rows
        if row.id in reward and row.id in traces
    ]


def skip(session: Session, job_id: UUID, reasons: Mapping[UUID, str]) -> None:
    """Settle claimed interactions that the job will not learn from after all: id -> reason in a word."""
    by_reason: dict[str, list[UUID]] = {}
    for interaction_id, reason in reasons.items():
        by_reason.setdefault(reason, []).append(interaction_id)
    for reason, ids in by_reason.items():
        session.execute(
            update(Claim)
            .where(Claim.job_id == job_id, Claim.outcome == "claimed", Claim.interaction_id.in_(ids))
            .values(outcome="skipped", reason=reason)
        )


def abandon(session: Session, job_id: UUID, reason: str) -> int:
    """Settle everything a job still claims as skipped: what is not to be tried again. Returns how many."""
    dropped = (
        update(Claim)
        .where(Claim.job_id == job_id, Claim.outcome == "claimed")
        .values(outcome="skipped", reason=reason)
        .returning(Claim.interaction_id)
    )
    return len(session.scalars(dropped).all())


def settle(session: Session, job_id: UUID) -> int:
    """Note that a job learned from everything it still claims; returns how many. For the transaction that promotes."""
    learned = (
        update(Claim)
        .where(Claim.job_id == job_id, Claim.outcome == "claimed")
        .values(outcome="learned")
        .returning(Claim.interaction_id)
    )
    return len(session.scalars(learned).all())


def release(session: Session, job_id: UUID) -> int:
    """Give back what a job claimed and did not learn from; returns how many. What it skipped stays skipped."""
    dropped = delete(Claim).where(Claim.job_id == job_id, Claim.outcome == "claimed").returning(Claim.interaction_id)
    ids = list(session.scalars(dropped))
    session.execute(update(Interaction).where(Interaction.id.in_(ids)).values(claimed=False))
    return len(ids)


def outcomes(session: Session, job_id: UUID) -> dict[str, int]:
    """Count a job's claims: `claimed`, `learned`, and `skipped:<reason>`."""
    query = (
        select(Claim.outcome, Claim.reason, func.count())
        .where(Claim.job_id == job_id)
        .group_by(Claim.outcome, Claim.reason)
    )
    return {
        outcome if reason is None else f"{outcome}:{reason}": count for outcome, reason, count in session.execute(query)
    }


def write(session: Session, job_id: UUID, ids: Sequence[UUID], outcome: str, reason: str | None) -> None:
    """Write claims on rows this transaction has locked."""
    if not ids:
        return
    session.add_all(Claim(interaction_id=row, job_id=job_id, outcome=outcome, reason=reason) for row in ids)
    session.execute(update(Interaction).where(Interaction.id.in_(ids)).values(claimed=True))
    session.flush()
