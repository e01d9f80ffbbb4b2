"""Which checkpoint is served: the aliases `serving` and `previous`, and the history of every change.

Leaves out how a server takes new weights (`app.engine`): it polls `serving` and swaps by itself.
"""

from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.errors import Conflict
from app.store.checkpoints import get_checkpoint
from app.store.locks import Lock, hold
from app.store.tables import Alias, Checkpoint, Promotion

SERVING = "serving"
PREVIOUS = "previous"


def serving(session: Session) -> Checkpoint | None:
    """Read the checkpoint to serve; None before the first promotion."""
    return alias(session, SERVING)


def alias(session: Session, name: str) -> Checkpoint | None:
    """Read the checkpoint an alias names; None where it names nothing."""
    query = select(Checkpoint).join(Alias, Alias.checkpoint_id == Checkpoint.id).where(Alias.name == name)
    return session.scalar(query)


def promote(session: Session, checkpoint_id: UUID, reason: str, actor: str) -> Promotion | None:
    """Serve a checkpoint; what was served becomes `previous`.

    Returns:
        The entry of the history; None if it is served already, in which case nothing changes.

    Raises:
        NotFound: there is no such checkpoint.
        Conflict: it was rejected, or its files are gone.

    """
    hold(session, Lock.PROMOTE)
    target = get_checkpoint(session, checkpoint_id)
    if target.status != "published":
        raise Conflict(f"Checkpoint version {target.version} was {target.status} and cannot be served")
    if target.metrics.get("deleted"):
        raise Conflict(f"The files of checkpoint version {target.version} were deleted (LEPO_KEEP_CHECKPOINTS)")
    before = serving(session)
    if before is not None and before.id == target.id:
        return None
    if before is not None:
        point(session, PREVIOUS, before.id)
    point(session, SERVING, target.id)
    entry = Promotion(
        alias=SERVING,
        from_checkpoint_id=before.id if before else None,
        to_checkpoint_id=target.id,
        reason=reason,
        actor=actor,
    )
    session.add(entry)
    session.flush()
    return entry


def rollback(session: Session, actor: str, to: UUID | None = None, reason: str = "rollback") -> Promotion | None:
    """Serve an earlier checkpoint again: `to`, or else `previous`.

    Returns:
        The entry of the history; None if that one is served already.

    Raises:
        NotFound: there is no checkpoint `to`.
        Conflict: nothing was served before, or `to` was rejected.

    """
    hold(session, Lock.PROMOTE)
    if to is None:
        previous = alias(session, PREVIOUS)
        if previous is None:
            raise Conflict("Nothing was served before, so there is nothing to roll back to")
        to = previous.id
    return promote(session, to, reason, actor)


def history(session: Session, *, limit: int = 100, before: UUID | None = None) -> list[Promotion]:
    """List changes, the newest first; continue with the last one's id as `before`."""
    query = select(Promotion).order_by(Promotion.id.desc()).limit(limit)
    if before is not None:
        query = query.where(Promotion.id < before)
    return list(session.scalars(query))


def oldest_fresh_version(session: Session, max_staleness: int) -> int:
    """Give the oldest policy version that is at most `max_staleness` published versions behind the served one.

    Counted over published checkpoints, so that a rejected candidate makes no answer older; after a rollback, over those
    up to the served one. 0 when nothing is served.
    """
    current = serving(session)
    if current is None:
        return 0
    query = (
        select(Checkpoint.version)
        .where(Checkpoint.status == "published", Checkpoint.version <= current.version)
        .order_by(Checkpoint.version.desc())
        .offset(max_staleness)
        .limit(1)
    )
    return session.scalar(query) or 0


def point(session: Session, name: str, checkpoint_id: UUID) -> None:
    """Move an alias."""
    made = insert(Alias).values(name=name, checkpoint_id=checkpoint_id)
    moved = made.on_conflict_do_update(
        index_elements=[Alias.name],
        set_={"checkpoint_id": made.excluded.checkpoint_id, "updated_at": func.now()},
    )
    session.execute(moved, execution_options={"populate_existing": True})
