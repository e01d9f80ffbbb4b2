"""What the service did with the grades, read from its database: never from what it says of itself.

Leaves out what the users did (`benchmarks.online.crowd`).
"""

from collections import Counter
from collections.abc import Collection
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.store.grades import LATEST
from app.store.tables import Checkpoint, Claim, Interaction, Job


def read_ledger(session: Session, hostile_keys: Collection[str]) -> dict[str, Any]:
    """Sum up jobs, claims and their reasons, staleness, and the share of each grading key in each job.

    Args:
        session: of the service's own database.
        hostile_keys: ids of the API keys that graded against the truth.

    """
    shares = key_shares(session)
    jobs = session.scalars(select(Job)).all()
    baselines: Counter[str] = Counter()
    for job in jobs:
        baselines.update(job.metrics.get("baselines", {}))
    in_batches = sum(sum(keys.values()) for keys in shares.values())
    hostile = sum(keys[key] for keys in shares.values() for key in hostile_keys)
    return {
        "jobs": len(jobs),
        "verdicts": dict(Counter(str(job.verdict or job.status) for job in jobs)),
        "baselines": dict(baselines),
        "in_batches": in_batches,
        "hostile_share_in_batches": hostile / in_batches if in_batches else 0.0,
        "largest_key_share": max((max(keys.values()) / sum(keys.values()) for keys in shares.values()), default=0.0),
        "skipped": skipped(session),
        "staleness": staleness(session),
        "waiting": waiting(session),
    }


def key_shares(session: Session) -> dict[str, Counter[str]]:
    """Count, per job, the answers in its batch by the key they are charged to (answers of refused jobs included).

    That is the key that graded, or where this server did, the key that asked and chose the grader.
    """
    charged = func.coalesce(LATEST.c.api_key_id, Interaction.api_key_id)
    query = (
        select(Claim.job_id, charged, func.count())
        .join(LATEST, LATEST.c.interaction_id == Claim.interaction_id)
        .join(Interaction, Interaction.id == Claim.interaction_id)
        .where((Claim.outcome == "learned") | (Claim.reason == "refused"))
        .group_by(Claim.job_id, charged)
    )
    found: dict[str, Counter[str]] = {}
    for job, key, count in session.execute(query):
        found.setdefault(str(job), Counter())[str(key)] = count
    return found


def skipped(session: Session) -> dict[str, int]:
    """Count answers that were not learned from, by reason."""
    query = select(Claim.reason, func.count()).where(Claim.outcome == "skipped").group_by(Claim.reason)
    return {str(reason): count for reason, count in session.execute(query)}


def staleness(session: Session) -> dict[str, int]:
    """Count learned answers by how many versions lay between their policy and the one that learned."""
    age = Checkpoint.version - Interaction.policy_version
    query = (
        select(age, func.count())
        .select_from(Claim)
        .join(Interaction, Interaction.id == Claim.interaction_id)
        .join(Job, Job.id == Claim.job_id)
        .join(Checkpoint, Checkpoint.id == Job.base_checkpoint_id)
        .where((Claim.outcome == "learned") | (Claim.reason == "refused"))
        .group_by(age)
        .order_by(age)
    )
    return {str(versions): count for versions, count in session.execute(query)}


def waiting(session: Session) -> int:
    """Count graded answers that no job has claimed."""
    query = select(func.count()).where(Interaction.graded_at.is_not(None), Interaction.claimed.is_(False))
    return session.scalars(query).one()
