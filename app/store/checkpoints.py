"""Checkpoints as rows: which weights exist, from what they came, how they did.

Leaves out the files (`training.models.checkpoint`) and which one is served (`app.store.policy_life`).
"""

from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.errors import NotFound
from app.identifiers import show
from app.store.base import Json
from app.store.locks import Lock, hold
from app.store.tables import Checkpoint


def next_version(session: Session) -> int:
    """Allocate the next version and hold the lock on versions until the transaction ends.

    For who must write the number into files before `publish`: the same transaction gets the same number there. A
    refused checkpoint takes a version too, so no number ever meant two things.
    """
    hold(session, Lock.PUBLISH)
    return session.scalars(select(func.coalesce(func.max(Checkpoint.version) + 1, 0))).one()


def publish(
    session: Session,
    *,
    path: str,
    digest: str,
    parent_id: UUID | None = None,
    job_id: UUID | None = None,
    metrics: Json | None = None,
    version: int | None = None,
) -> Checkpoint:
    """Record a checkpoint under a new version, as a candidate; the first one ever is 0, the base model.

    Args:
        session: a transaction; versions are allocated one transaction at a time.
        path: directory in the Hugging Face layout, complete on disk.
        digest: SHA-256 fingerprint of the parameters, hexadecimal.
        parent_id: the checkpoint it was trained from.
        job_id: the job that made it.
        metrics: of the update and the gate.
        version: the number it was made under (from `next_version`); None: the next.

    Raises:
        ValueError: a parent is missing, or `version` is taken or skips ahead.

    """
    free = next_version(session)
    if version is not None and version != free:
        raise ValueError(f"version {version} cannot be published now, the next is {free}; make the checkpoint again")
    if free > 0 and parent_id is None:
        raise ValueError("a checkpoint after the base model needs parent_id, the checkpoint it was trained from")
    row = Checkpoint(
        version=free,
        parent_id=parent_id,
        path=path,
        digest=digest,
        job_id=job_id,
        state="candidate",
        metrics=metrics or {},
    )
    session.add(row)
    session.flush()
    return row


def get_checkpoint(session: Session, checkpoint_id: UUID) -> Checkpoint:
    """Read one.

    Raises:
        NotFound: there is none with this id.

    """
    row = session.get(Checkpoint, checkpoint_id)
    if row is None:
        raise NotFound(f"There is no checkpoint {show('ckpt', checkpoint_id)}")
    return row


def by_version(session: Session, version: int) -> Checkpoint:
    """Read the one with this version.

    Raises:
        NotFound: there is none.

    """
    row = session.scalar(select(Checkpoint).where(Checkpoint.version == version))
    if row is None:
        raise NotFound(f"There is no checkpoint of version {version}")
    return row


def list_checkpoints(
    session: Session, *, limit: int = 100, before_version: int | None = None, state: str | None = None
) -> list[Checkpoint]:
    """List checkpoints, the newest first; continue with the last one's version as `before_version`."""
    query = select(Checkpoint).order_by(Checkpoint.version.desc()).limit(limit)
    if state is not None:
        query = query.where(Checkpoint.state == state)
    if before_version is not None:
        query = query.where(Checkpoint.version < before_version)
    return list(session.scalars(query))
