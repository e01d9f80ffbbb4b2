"""From learned weights to the policy that serves: files first, then one transaction, then the bell.

The transaction holds everything that must be true together: the checkpoint's row, its scores, the alias `serving`, the
trackers, the claims that are spent, the job's end. Killed before it, there are files without a row, which the next
publisher of that version removes; killed after it, everything is there and servers find it by themselves. Leaves out
how files are made whole (`training.checkpoint`).
"""

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import redis
from sqlalchemy.orm import Session
from torch import Tensor

from app.stack.redis import client_url
from app.store import checkpoints, evaluations, jobs, promotions
from app.store.connect import Store
from app.store.tables import Checkpoint
from training.advantage import Tracker
from training.checkpoint import checkpoint_dir, publish, sweep
from training.policy import Policy, fingerprint
from worker.begin import Begun
from worker.beliefs import write_trackers
from worker.evaluation import Scores, detail_of
from worker.retention import delete, expired, versions_on_disk
from worker.run import Run, plain

CHANNEL: Final = "lepo:policy"  # Redis channel of the hint; its message is the version
ACTOR: Final = "worker"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A checkpoint whose files are complete, and which has no row yet."""

    version: int
    directory: Path
    digest: str  # fingerprint of its parameters
    drift: float  # of the policy since the base, nats
    scores: Scores | None  # of its evaluation, if there was one


def publish_files(
    run: Run,
    begun: Begun,
    policy: Policy,
    state: Mapping[str, Tensor],
    beside: Callable[[Path], None],
    parent_dir: Path,
    drift: float,
    scores: Scores | None,
) -> Candidate:
    """Write the learned weights as the next version.

    Args:
        run: the job's.
        begun: the job's.
        policy: as learned.
        state: of its learner.
        beside: writes what else belongs into the checkpoint.
        parent_dir: where checkpoints are.
        drift: of the policy since the base, nats.
        scores: of its evaluation, if there was one.

    Raises:
        Fenced: the job is no longer ours.
        ValueError: the weights are not finite.

    """
    version = clear_way(run, parent_dir)
    training = plain({"job": str(begun.job_id), "settings": begun.settings.model_dump(mode="json"), **run.metrics})
    directory = publish(
        policy,
        parent_dir,
        version=version,
        parent_version=begun.serving.version,
        training=training,
        created=datetime.now(UTC).isoformat(),
        training_state=state,
        beside=beside,
    )
    return Candidate(version, directory, fingerprint(policy.model), drift, scores)


def clear_way(run: Run, parent_dir: Path) -> int:
    """Find the next version, and remove what a killed publisher left under its name."""
    with run.store.session() as session:
        version = checkpoints.next_version(session)
        jobs.held(session, run.job_id, run.fence)
        leftover = checkpoint_dir(parent_dir, version)
        if leftover.exists():
            log.warning("%s has no row: its publisher was killed; it is removed", leftover)
            shutil.rmtree(leftover)
    sweep(parent_dir)
    return version


def settle(
    session: Session, run: Run, begun: Begun, candidate: Candidate, trackers: Mapping[str, Tracker], *, serve: bool
) -> None:
    """Make a candidate a checkpoint, and serve it or hold it; in one transaction.

    Raises:
        Fenced: the job is no longer ours.
        ValueError: the version was taken meanwhile.

    """
    row = checkpoints.publish(
        session,
        path=str(candidate.directory.resolve()),
        digest=candidate.digest,
        parent_id=begun.serving_id,
        job_id=begun.job_id,
        metrics=plain({**run.metrics, "drift": candidate.drift}),
        version=candidate.version,
    )
    record_scores(session, row, "gate", candidate.scores)
    write_trackers(session, trackers, begun.serving.version)
    if serve:
        promotions.promote(session, row.id, f"update of version {begun.serving.version}", ACTOR)
    run.finish(session, "succeeded", "promoted" if serve else "held", result_checkpoint_id=row.id)


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


def prune(store: Store, parent_dir: Path, keep: int) -> list[int]:
    """Delete the directories of old checkpoints; their rows say so and stay.

    Returns:
        The versions deleted.

    """
    found = versions_on_disk(parent_dir)
    with store.session() as session:
        aliased = (promotions.alias(session, name) for name in (promotions.SERVING, promotions.PREVIOUS))
        protected = {0, *(checkpoint.version for checkpoint in aliased if checkpoint is not None)}
        doomed = expired(found, keep, protected)
        for version in doomed:
            row = checkpoints.by_version(session, version)
            row.metrics = {**row.metrics, "deleted": True}
    for version in doomed:
        delete(found[version])
    return doomed
