"""How a job begins: somebody asked for one, or there are enough fresh grades; and what it claims.

One transaction: a job that is not worth it leaves no row, no claim and no number behind. Leaves out what is done with
the claim (`worker.learn`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy.orm import Session

from app.job_settings import of_job
from app.settings import Settings
from app.store import checkpoints, claims, events, jobs, promotions
from app.store.claims import Claimed
from app.store.tables import Checkpoint, Job
from worker.lessons import charge
from worker.resident import Source
from worker.share import usable
from worker.workshop import Workshop


class TooFew(Exception):
    """What could be claimed does not make a batch yet; the transaction that claimed it is undone."""


@dataclass(frozen=True, slots=True, eq=False)
class Begun:
    """A job that was started, with what it claimed."""

    job_id: UUID
    fence: int  # whoever holds it may write for the job
    settings: Settings  # the service's, with the job's own wishes
    serving: Source  # the policy that is to learn
    serving_id: UUID  # its checkpoint
    drift: float  # of the serving policy since the base, nats
    base: Source  # the first checkpoint
    claimed: list[Claimed]  # answers to learn from


def begin(shop: Workshop) -> Begun | None:
    """Start the oldest requested job, or one of our own when there is enough to learn from; None: nothing to do."""
    try:
        with shop.store.session() as session:
            serving = promotions.serving(session)
            job = None if serving is None else next_job(session, shop)
            return None if serving is None or job is None else prepare(session, shop.settings, serving, job)
    except TooFew:
        return None


def next_job(session: Session, shop: Workshop) -> Job | None:
    """Find what is to run."""
    if not jobs.has_queued(session):
        oldest = promotions.oldest_fresh_version(session, shop.settings.max_staleness)
        if not shop.settings.learn or claims.count_fresh(session, oldest) < shop.settings.min_grades:
            return None
        jobs.request(session, trigger="schedule", requested_by="beat")
    return jobs.start(session, shop.name)


def prepare(session: Session, service: Settings, serving: Checkpoint, job: Job) -> Begun | None:
    """Claim for a job, and gather what its phases need of the database; None: its own settings are refused.

    Raises:
        TooFew: nobody asked for this job, and what can be claimed is not worth one.

    """
    assert job.fence is not None, "a started job has a fence"
    job.base_checkpoint_id = serving.id
    try:
        settings = of_job(service, job.config)
    except ValueError as error:
        jobs.finish(session, job.id, job.fence, "failed", verdict="refused", error=str(error))
        return None
    oldest = promotions.oldest_fresh_version(session, settings.max_staleness)
    grace = timedelta(seconds=settings.group_grace)
    claimed = claims.claim(session, job.id, limit=settings.max_grades, min_version=oldest, grace=grace)
    if job.trigger == "schedule" and not worth_a_job(claimed, settings):
        raise TooFew
    jobs.advance(session, job.id, job.fence, "claim")
    events.say(session, job.id, f"claimed {len(claimed)} graded answers to learn from, on version {serving.version}")
    base = checkpoints.by_version(session, 0)
    return Begun(
        job_id=job.id,
        fence=job.fence,
        settings=settings,
        serving=Source(serving.version, serving.path),
        serving_id=serving.id,
        drift=float(serving.metrics.get("drift", 0.0)),
        base=Source(base.version, base.path),
        claimed=claimed,
    )


def worth_a_job(claimed: Sequence[Claimed], settings: Settings) -> bool:
    """Whether enough is left for an update once every API key is held to its share.

    With as much waiting as one update may claim it goes ahead regardless, or a key that grades once and never again
    could hold up all others.
    """
    if len(claimed) >= settings.max_grades:
        return True
    return usable(Counter(charge(claimed).values()), settings.key_share) >= settings.min_grades
