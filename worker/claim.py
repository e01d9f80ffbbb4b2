"""How a job begins: somebody asked for one, or there is enough to learn from; and what it claims.

Looking only reads. The claim is one transaction with the start of its job, so a job that is not worth it leaves no
row, no claim and no number behind. Leaves out what makes an update worth it (`app.store.learnable`) and what is done
with the claim (`worker.learn`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy.orm import Session

from app.job_settings import of_job
from app.settings import Settings
from app.store import checkpoints, claims, events, jobs, learnable, learning, policy_life
from app.store.claims import Claimed
from app.store.learnable import Outlook
from app.store.tables import Checkpoint, Job
from worker.resident import Context, Source


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """A job that was started, with what it claimed and what it needs to know of the database."""

    job_id: UUID
    fence: int  # whoever holds it may write for the job
    settings: Settings  # the service's, with the job's own wishes
    serving: Source  # the policy that is to learn
    serving_id: UUID  # its checkpoint; only while it serves may the result be promoted
    drift: float  # of the serving policy since the base, nats
    base: Source  # the first checkpoint
    claimed: list[Claimed]  # answers to learn from
    keys: Mapping[str, str]  # bundle -> API key it counts for
    rate_scale: float  # factor on the learning rate, after refusals


class _NotWorthIt(Exception):
    """Others took what was offered; the transaction that started the job is undone."""


def begin(context: Context) -> Assignment | None:
    """Start the oldest requested job, or one of our own when there is enough to learn from; None: nothing to do."""
    try:
        with context.store.session() as session:
            if jobs.running(session) is not None:
                return None
            if jobs.has_queued(session):
                return requested(session, context)
            outlook = learnable.outlook(session, context.settings)
            if outlook.words is not None:
                return None
            asked = jobs.request(session, trigger="schedule", requested_by="beat")
            job = jobs.start(session, context.name, lease_of(context.settings))
            return assign(session, context.settings, only(job, asked), outlook)
    except _NotWorthIt:
        return None


def only(job: Job | None, asked: Job) -> Job:
    """Make sure that the job which starts is the one we asked for: another worker or an operator may be quicker."""
    if job is None or job.id != asked.id:
        raise _NotWorthIt
    return job


def requested(session: Session, context: Context) -> Assignment | None:
    """Start a job somebody asked for, unless learning is frozen or waits for a decision: then it stays queued."""
    asked_anyway = context.settings.model_copy(update={"learn": True, "update_interval": 0.0})
    if learnable.stopped(session, asked_anyway) is not None:
        return None
    job = jobs.start(session, context.name, lease_of(context.settings))
    if job is None:
        return None
    assert job.fence is not None, "a started job has a fence"
    try:
        settings = of_job(context.settings, job.config)
    except ValueError as error:
        fence = job.fence
        jobs.finish(session, job.id, fence, "failed", "release", verdict="invalid", fault="operator", error=str(error))
        return None
    return assign(session, settings, job, learnable.offer(session, settings, anything=True))


def assign(session: Session, settings: Settings, job: Job, outlook: Outlook) -> Assignment:
    """Claim what is offered, and gather what the job's phases need of the database."""
    assert job.fence is not None, "a started job has a fence"
    serving = policy_life.serving(session)
    assert serving is not None, "no update begins before something serves"
    job.base_checkpoint_id = serving.id
    claimed = claims.claim(session, job.id, outlook.groups)
    if job.trigger == "schedule" and len(claimed) < min(settings.min_grades, sum(map(len, outlook.groups.values()))):
        raise _NotWorthIt
    jobs.advance(session, job.id, job.fence, "claim", lease_of(settings))
    events.say(session, job.id, f"claimed {len(claimed)} graded answers to learn from, on version {serving.version}")
    return Assignment(
        job_id=job.id,
        fence=job.fence,
        settings=settings,
        serving=source_of(serving),
        serving_id=serving.id,
        drift=float(serving.metrics.get("drift", 0.0)),
        base=source_of(checkpoints.by_version(session, 0)),
        claimed=claimed,
        keys=outlook.charged,
        rate_scale=learning.read(session).rate_scale,
    )


def source_of(checkpoint: Checkpoint) -> Source:
    """Say where a checkpoint's weights are."""
    return Source(checkpoint.version, checkpoint.path)


def lease_of(settings: Settings) -> timedelta:
    """Give how long a job is its worker's without a sign of life."""
    return timedelta(seconds=settings.learner_lease)
