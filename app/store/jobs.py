"""Jobs: one update of the policy each, from request to verdict.

    queued -> running -> succeeded | failed | cancelled        (queued -> cancelled directly)

The row is the truth. Whoever starts a job gets its fence, a number never given twice, and must name it in everything
that follows: once the job is another's, or over, every write raises `Fenced`. It also gets a lease, which every sign of
life extends; once that has run out by the database's clock, any other worker may end the job and begin the next. No
lock outlives a transaction, and no worker's clock is read. Leaves out the work (`worker`) and the diary
(`app.store.events`).
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Sequence, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.errors import Conflict, Fenced, NotFound
from app.identifiers import show
from app.store import claims
from app.store.base import Json
from app.store.claims import Settlement
from app.store.tables import Job

FENCES = Sequence("job_fences")
WORKER_LOST = "worker lost"

Outcome = Literal["succeeded", "failed", "cancelled"]
Fault = Literal["data", "infrastructure", "operator", "policy"]


def request(session: Session, *, trigger: str, requested_by: str, config: Json | None = None) -> Job:
    """Ask for an update.

    Args:
        session: a transaction.
        trigger: `schedule` or `admin`.
        requested_by: a key's id, or the name of the part that asks.
        config: settings that differ from the service's.

    """
    job = Job(trigger=trigger, requested_by=requested_by, config=config or {})
    session.add(job)
    session.flush()
    return job


def start(session: Session, worker: str, lease: timedelta) -> Job | None:
    """Begin the oldest queued job.

    Args:
        session: a transaction.
        worker: name of the process that will do it.
        lease: how long it is the worker's without a sign of life.

    Returns:
        The job with its new fence; None when nothing is queued, or another job runs.

    """
    if session.scalar(select(Job.id).where(Job.status == "running").limit(1)) is not None:
        return None
    queued = select(Job).where(Job.status == "queued").order_by(Job.created_at, Job.id).limit(1)
    job = session.scalar(queued.with_for_update(skip_locked=True))
    if job is None:
        return None
    fence, now = session.scalar(select(FENCES.next_value())), clock(session)
    try:
        with session.begin_nested():
            job.status, job.worker, job.fence = "running", worker, fence
            job.phase = "start"
            job.started_at = job.phase_started_at = job.heartbeat_at = now
            job.lease_until = now + lease
    except IntegrityError:  # another worker started another job at the same moment: only one may run
        return None
    return job


def advance(session: Session, job_id: UUID, fence: int, phase: str, lease: timedelta) -> Job:
    """Enter a phase.

    Raises:
        Fenced: the job is no longer the caller's.

    """
    job = held(session, job_id, fence)
    job.phase_started_at = job.heartbeat_at = now = clock(session)
    job.lease_until = now + lease
    job.phase = phase
    session.flush()
    return job


def heartbeat(
    session: Session, job_id: UUID, fence: int, lease: timedelta, metrics: Mapping[str, Any] | None = None
) -> bool:
    """Say that the job is alive, and what it has reached; its lease runs from now.

    Returns:
        Whether somebody asked to cancel it.

    Raises:
        Fenced: the job is no longer the caller's.

    """
    job = held(session, job_id, fence)
    job.heartbeat_at = now = clock(session)
    job.lease_until = now + lease
    if metrics:
        job.metrics = {**job.metrics, **metrics}
    session.flush()
    return job.cancel_requested


def finish(
    session: Session,
    job_id: UUID,
    fence: int,
    status: Outcome,
    settlement: Settlement,
    *,
    verdict: str | None = None,
    fault: Fault | None = None,
    result_checkpoint_id: UUID | None = None,
    metrics: Mapping[str, Any] | None = None,
    error: str | None = None,
    diagnosis: Json | None = None,
) -> Job:
    """End a job and bring its claims to an end.

    Call it in the transaction that publishes and promotes, so that a policy serves exactly if its grades are spent.

    Args:
        session: a transaction.
        job_id: the job.
        fence: as given by `start`.
        status: how it ended.
        settlement: what becomes of the answers it still claims (`app.store.claims`).
        verdict: what came of it in a word, such as `promoted`, `refused`, `nothing_to_learn`.
        fault: whose fault a bad end was.
        result_checkpoint_id: the checkpoint it made.
        metrics: added to the job's.
        error: what went wrong, in a sentence.
        diagnosis: what is known about why.

    Raises:
        Fenced: the job is no longer the caller's.

    """
    job = held(session, job_id, fence)
    job.status, job.finished_at = status, clock(session)
    job.verdict, job.fault = verdict, fault
    job.result_checkpoint_id = result_checkpoint_id
    job.metrics = {**job.metrics, **(metrics or {})}
    job.error = error
    job.diagnosis = diagnosis
    session.flush()
    claims.settle(session, job.id, settlement)
    return job


def cancel(session: Session, job_id: UUID) -> Job:
    """Cancel a job: at once while it waits, else as a request that the worker follows at its next heartbeat.

    Raises:
        NotFound: there is no such job.
        Conflict: it is over.

    """
    job = session.get(Job, job_id, with_for_update=True, populate_existing=True)
    if job is None:
        raise NotFound(f"There is no job {show('job', job_id)}")
    if job.finished_at is not None:
        raise Conflict(f"Job {show('job', job_id)} is over ({job.status}) and cannot be cancelled")
    job.cancel_requested = True
    if job.status == "queued":
        job.status, job.finished_at, job.fault = "cancelled", clock(session), "operator"
    session.flush()
    return job


def end_expired(session: Session) -> list[Job]:
    """End running jobs whose lease has run out, as failed (`worker lost`), and give back what they claimed."""
    query = (
        select(Job)
        .where(Job.status == "running", or_(Job.lease_until.is_(None), Job.lease_until <= func.clock_timestamp()))
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    lost = list(session.scalars(query))
    for job in lost:
        job.status, job.finished_at = ("cancelled" if job.cancel_requested else "failed"), clock(session)
        job.fault = "operator" if job.cancel_requested else "infrastructure"
        job.error = WORKER_LOST
        session.flush()
        claims.settle(session, job.id, "release")
    return lost


def failures_in_a_row(session: Session) -> int:
    """Count the jobs, back from the last one over, that failed by the infrastructure's fault; operators' ends aside."""
    ended = select(Job.fault).where(Job.finished_at.is_not(None), Job.fault.is_distinct_from("operator"))
    faults = session.scalars(ended.order_by(Job.finished_at.desc()).limit(20))
    return sum(1 for _ in takewhile(lambda fault: fault == "infrastructure", faults))


def bugs_in_a_row(session: Session) -> int:
    """Count the failures of `failures_in_a_row` that were no shortage; one that was one ends the row."""
    ended = select(Job.fault, Job.metrics["shortage"].as_boolean()).where(
        Job.finished_at.is_not(None), Job.fault.is_distinct_from("operator")
    )
    found = session.execute(ended.order_by(Job.finished_at.desc()).limit(20))
    return sum(1 for _ in takewhile(lambda one: one[0] == "infrastructure" and not one[1], found))


def get_job(session: Session, job_id: UUID) -> Job:
    """Read one.

    Raises:
        NotFound: there is none with this id.

    """
    job = session.get(Job, job_id)
    if job is None:
        raise NotFound(f"There is no job {show('job', job_id)}")
    return job


def running(session: Session) -> Job | None:
    """Read the job that runs now."""
    return session.scalar(select(Job).where(Job.status == "running"))


def list_jobs(session: Session, *, status: str | None = None, limit: int = 50, after: UUID | None = None) -> list[Job]:
    """List jobs, the newest first; continue with the last one's id as `after`."""
    query = select(Job).order_by(Job.id.desc()).limit(limit)
    if status is not None:
        query = query.where(Job.status == status)
    if after is not None:
        query = query.where(Job.id < after)
    return list(session.scalars(query))


def has_queued(session: Session) -> bool:
    """Tell whether a job waits."""
    return session.scalar(select(Job.id).where(Job.status == "queued").limit(1)) is not None


def held(session: Session, job_id: UUID, fence: int) -> Job:
    """Lock a job's row for a write of its worker.

    Raises:
        Fenced: it does not run, or under another fence.

    """
    job = session.get(Job, job_id, with_for_update=True, populate_existing=True)
    if job is None or job.status != "running" or job.fence != fence:
        state = "unknown" if job is None else f"{job.status}, fence {job.fence}"
        raise Fenced(f"Job {show('job', job_id)} is no longer yours (fence {fence}; now {state}): write nothing more")
    return job


def clock(session: Session) -> datetime:
    """Read Postgres's clock: within a transaction its `now()` stands still, and workers' clocks differ."""
    now: datetime = session.scalars(select(func.clock_timestamp())).one()
    return now
