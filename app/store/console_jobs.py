"""Updates to be looked at: the samples of one, events by their words, figures of one update after another.

Reading only, bounded. Leaves out the job's own row (`app.store.jobs`) and what claims mean (`app.store.claims`).
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import func, literal, nulls_last, select
from sqlalchemy.orm import Session

from app.store.base import AnyText, Json
from app.store.console_search import escaped
from app.store.tables import Claim, Interaction, Job, JobEvent

SAMPLES: Final = 60
EVENTS: Final = 20_000  # newest events that a search looks through
FOUND: Final = 60


@dataclass(frozen=True, slots=True)
class Sample:
    """An answer that an update claimed."""

    interaction_id: UUID
    outcome: str  # claimed, learned or skipped
    reason: str | None  # why it was skipped
    reward: float | None  # None: it was removed since, or only corrected
    ahead: float | None  # its reward less the mean of its response's answers in this update
    peers: int  # answers of its response in this update
    divergence: float | None  # nats per step
    weight: float | None  # mean importance weight of its steps
    version: int | None  # that answered; None: it was removed since
    answer: str | None


@dataclass(frozen=True, slots=True)
class FoundEvent:
    """An event with the update it is of."""

    job_id: UUID
    level: str
    message: str
    data: Json | None
    at: datetime


def samples(session: Session, job_id: UUID, outcome: str | None = None, limit: int = SAMPLES) -> list[Sample]:
    """List an update's samples, those first that stand out most among their like."""
    mine = func.avg(Interaction.reward).over(partition_by=Interaction.completion_id)
    peers = func.count(Interaction.reward).over(partition_by=Interaction.completion_id)
    ahead = (Interaction.reward - mine).label("ahead")
    every = (
        select(
            Claim.interaction_id,
            Claim.outcome,
            Claim.reason,
            Interaction.reward,
            ahead,
            peers.label("peers"),
            Claim.divergence,
            Claim.weight,
            Interaction.policy_version,
            Interaction.answer,
        )
        .outerjoin(Interaction, Interaction.id == Claim.interaction_id)
        .where(Claim.job_id == job_id)
        .subquery()
    )
    query = select(every).order_by(nulls_last(func.abs(every.c.ahead).desc()), every.c.interaction_id).limit(limit)
    if outcome is not None:
        query = query.where(every.c.outcome == outcome)
    return [Sample(*row) for row in session.execute(query)]


def outcomes(session: Session, job_id: UUID) -> list[tuple[str, str | None, int]]:
    """Count an update's samples by what became of them, and why."""
    query = (
        select(Claim.outcome, Claim.reason, func.count())
        .where(Claim.job_id == job_id)
        .group_by(Claim.outcome, Claim.reason)
        .order_by(func.count().desc())
    )
    return [(outcome, reason, count) for outcome, reason, count in session.execute(query)]


def find_events(session: Session, words: str, level: str | None = None) -> list[FoundEvent]:
    """Look for events by their words, the newest first."""
    newest = select(JobEvent).order_by(JobEvent.id.desc()).limit(EVENTS).subquery()
    columns = (newest.c.job_id, newest.c.level, newest.c.message, newest.c.data, newest.c.created_at)
    query = select(*columns).order_by(newest.c.id.desc()).limit(FOUND)
    if words:
        query = query.where(newest.c.message.ilike(literal(f"%{escaped(words)}%", AnyText()), escape="\\"))
    if level is not None:
        query = query.where(newest.c.level == level)
    return [FoundEvent(*row) for row in session.execute(query)]


def measured_jobs(session: Session, limit: int = 120) -> list[Job]:
    """List the newest updates that measured something, the oldest first."""
    query = (
        select(Job)
        .where(func.jsonb_exists(Job.metrics, literal("update", AnyText())))
        .order_by(Job.id.desc())
        .limit(limit)
    )
    return list(session.scalars(query))[::-1]
