"""From learned weights to a policy with a state: files first, then one transaction, then the bell.

The transaction holds everything that must be true together: the checkpoint's row, its scores, what becomes of it, the
trackers, the claims, the job's end. Killed before it, there are files without a row, which the next publisher of that
version removes; killed after it, everything is there and servers find it by themselves. Where the database is away just
then, it is tried again for a while. Leaves out how files are made whole (`training.models.checkpoint`) and which files
go (`worker.retention`).
"""

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import redis
from sqlalchemy.orm import Session
from torch import Tensor

from app.errors import Cancelled
from app.stack.redis import client_url
from app.store import checkpoints, evaluations, jobs, learning, policy_life
from app.store.retry import write_for_sure
from app.store.tables import Checkpoint
from training.advantage import Tracker
from training.models.checkpoint import checkpoint_dir, publish, read_manifest, sweep
from training.models.policy import Policy
from worker.batch import write_trackers
from worker.claim import Assignment
from worker.gate.evaluation import Scores, detail_of
from worker.job import ACTOR, RunningJob, plain
from worker.retention import make_room

CHANNEL: Final = "lepo:policy"  # Redis channel of the hint; its message is the version
SETTLE_PATIENCE_S: Final = 60.0  # for how long a finished update waits for a database that is away

Fate = Literal["promote", "hold", "refuse", "shadow", "canary"]  # events of `app.store.policy_life` for a candidate
VERDICTS: Final[Mapping[Fate, str]] = {
    "promote": "promoted",
    "hold": "held",
    "refuse": "refused",
    "shadow": "shadow",
    "canary": "canary",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A checkpoint whose files are complete, and which has no row yet."""

    version: int
    directory: Path
    digest: str  # fingerprint of its parameters
    drift: float  # of the policy since the base, nats
    scores: Scores | None  # of its evaluation, if there was one


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate wants done with a candidate."""

    fate: Fate
    words: str  # in a sentence
    figures: Mapping[str, object]
    better: int | None = None  # with a refusal: the version that should serve, for what serves is worse than it


def publish_files(
    job: RunningJob,
    assignment: Assignment,
    policy: Policy,
    state: Mapping[str, Tensor],
    beside: Callable[[Path], None],
    parent_dir: Path,
    drift: float,
    scores: Scores | None,
) -> Candidate:
    """Write the learned weights as the next version.

    Args:
        job: the running one.
        assignment: the job's.
        policy: as learned.
        state: of its learner.
        beside: writes what else belongs into the checkpoint.
        parent_dir: where checkpoints are.
        drift: of the policy since the base, nats.
        scores: of its evaluation, if there was one.

    Raises:
        Fenced: the job is no longer ours.
        QuotaReached: there is no room for it within LEPO_DISK_QUOTA.
        ValueError: the weights are not finite.

    """
    make_room(job.store, assignment.settings, parent_dir, bytes_of(policy, state))
    version = clear_way(job, parent_dir)
    settings = assignment.settings.model_dump(mode="json")
    training = plain({"job": str(assignment.job_id), "settings": settings, **job.metrics})
    directory = publish(
        policy,
        parent_dir,
        version=version,
        parent_version=assignment.serving.version,
        training=training,
        created=datetime.now(UTC).isoformat(),
        training_state=state,
        beside=beside,
    )
    return Candidate(version, directory, read_manifest(directory).fingerprint, drift, scores)


def bytes_of(policy: Policy, state: Mapping[str, Tensor]) -> int:
    """Estimate what a checkpoint will take on disk: its weights and its learner's state."""
    return sum(one.nbytes for one in (*policy.model.parameters(), *state.values()))


def clear_way(job: RunningJob, parent_dir: Path) -> int:
    """Find the next version, and remove what a killed publisher left under its name."""
    with job.store.session() as session:
        version = checkpoints.next_version(session)
        jobs.held(session, job.job_id, job.fence)
        leftover = checkpoint_dir(parent_dir, version)
        if leftover.exists():
            log.warning("%s has no row: its publisher was killed; it is removed", leftover)
            shutil.rmtree(leftover)
    sweep(parent_dir)
    return version


def settle(
    job: RunningJob,
    assignment: Assignment,
    candidate: Candidate,
    trackers: Mapping[str, Tracker],
    decision: Decision,
    *,
    patience_s: float = SETTLE_PATIENCE_S,
) -> None:
    """Make a candidate a policy and decide its fate, in one transaction; tried again while the database is away.

    Raises:
        Fenced: the job is no longer ours.
        Overtaken: another policy serves than the one it was learned from.
        Cancelled: learning was frozen meanwhile.
        Unavailable: the database stayed away.

    """

    def write(session: Session) -> bool:
        write_decision(session, job, assignment, candidate, trackers, decision)
        return True

    def written(session: Session) -> bool | None:
        return True if committed(session, job, candidate) else None

    write_for_sure(job.store, write, written=written, within_s=patience_s, wait=job.rest)
    job.over = True


def committed(session: Session, job: RunningJob, candidate: Candidate) -> bool:
    """Whether a try before this one got through, though nobody heard of it."""
    learning.lock(session)  # what `write_decision` locks first: a try that Postgres has not given up yet is waited for
    row = jobs.get_job(session, job.job_id)
    if row.status == "running" or row.fence != job.fence or row.result_checkpoint_id is None:
        return False
    return checkpoints.get_checkpoint(session, row.result_checkpoint_id).digest == candidate.digest


def write_decision(
    session: Session,
    job: RunningJob,
    assignment: Assignment,
    candidate: Candidate,
    trackers: Mapping[str, Tracker],
    decision: Decision,
) -> None:
    """Write the candidate, its scores, its fate and the job's end."""
    control = learning.lock(session)
    jobs.held(session, job.job_id, job.fence)
    if control.frozen_at is not None:
        raise Cancelled(f"learning was frozen by {control.frozen_by}: {control.frozen_reason}")
    row = checkpoints.publish(
        session,
        path=str(candidate.directory.resolve()),
        digest=candidate.digest,
        parent_id=assignment.serving_id,
        job_id=assignment.job_id,
        metrics=plain({**job.metrics, "drift": candidate.drift}),
        version=candidate.version,
    )
    record_scores(session, row, "gate", candidate.scores)
    write_trackers(session, trackers, assignment.serving.version)
    figures = plain(decision.figures)
    if decision.fate == "promote":
        policy_life.promote(session, row.id, decision.words, ACTOR, expected=assignment.serving_id, figures=figures)
    else:
        policy_life.require_serving(session, assignment.serving_id, row)
        policy_life.move(session, row.id, decision.fate, decision.words, ACTOR, figures=figures)
    refused = decision.fate == "refuse"
    if refused:
        job.refused(session, decision.better)
    elif decision.fate not in {"shadow", "canary"}:  # those are bold again once their trial is passed
        learning.recover(session)
    job.finish(
        session,
        "succeeded",
        VERDICTS[decision.fate],
        result_checkpoint_id=row.id,
        fault="policy" if refused else None,
        error=decision.words if refused else None,
        diagnosis=figures if refused else None,
    )


def record_scores(session: Session, checkpoint: Checkpoint, kind: str, scores: Scores | None) -> None:
    """Keep how a checkpoint did; an evaluation nobody could grade leaves no row."""
    if scores is not None and scores.graded:
        total = len(scores.graded)
        detail = detail_of(scores)
        evaluations.record_evaluation(session, checkpoint.id, kind, correct=scores.correct, total=total, detail=detail)


def ring(redis_url: str, version: int) -> None:
    """Tell servers at once; they would find out within a second anyway, so a Redis that is away is no error."""
    try:
        with redis.Redis.from_url(client_url(redis_url), socket_timeout=2.0, socket_connect_timeout=2.0) as client:
            client.publish(CHANNEL, str(version))
    except redis.RedisError as error:
        log.warning("the hint about version %d did not reach Redis (%s); servers poll", version, error)
