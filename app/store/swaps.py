"""Swaps: every attempt of a server process to take new weights into service, as a row.

Leaves out swapping (`app.engine`).
"""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.store.tables import Swap


def record_swap(session: Session, swap: Swap) -> Swap:
    """Write an attempt, good or bad."""
    session.add(swap)
    session.flush()
    return swap


def list_swaps(session: Session, *, limit: int = 100, before: UUID | None = None) -> list[Swap]:
    """List attempts, the newest first; continue with the last one's id as `before`."""
    query = select(Swap).order_by(Swap.id.desc()).limit(limit)
    if before is not None:
        query = query.where(Swap.id < before)
    return list(session.scalars(query))


def has_failed(session: Session, replica: str, version: int) -> bool:
    """Tell whether this process's last attempt at a version failed, so that it need not try in a loop."""
    query = select(Swap.status).where(Swap.replica == replica, Swap.to_version == version).order_by(Swap.id.desc())
    return session.scalar(query.limit(1)) == "failed"
