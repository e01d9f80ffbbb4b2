"""A job's diary: messages and metrics, appended, read page by page.

Leaves out the job's own row (`app.store.jobs`).
"""

from typing import Literal
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.store.base import Json
from app.store.tables import JobEvent

Level = Literal["info", "warning", "error"]


def say(session: Session, job_id: UUID, message: str, *, level: Level = "info", data: Json | None = None) -> JobEvent:
    """Append a message."""
    return append(session, JobEvent(job_id=job_id, kind="message", level=level, message=message, data=data))


def measure(session: Session, job_id: UUID, data: Json, *, message: str = "") -> JobEvent:
    """Append metrics."""
    return append(session, JobEvent(job_id=job_id, kind="metrics", level="info", message=message, data=data))


def append(session: Session, event: JobEvent) -> JobEvent:
    """Append an event; its id is greater than that of every event of the same job before it."""
    session.add(event)
    session.flush()
    return event


def list_events(session: Session, job_id: UUID, *, after: int = 0, limit: int = 100) -> list[JobEvent]:
    """List a job's events in order; continue with the last one's id as `after`."""
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.id > after).order_by(JobEvent.id).limit(limit)
    return list(session.scalars(query))
