"""Held-out sets that operators uploaded: kept by version, and at most one of them asked by the gate.

In the database, so that every worker and server of any machine sees the same; where none is asked, the gate asks what
LEPO_HELDOUT names. Leaves out what a line must be (`app.held_out_lines`), and the asking (`worker.gate`).
"""

import hashlib
from typing import Final

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, undefer

from app.errors import NotFound
from app.store.clock import now
from app.store.held_out_tables import HeldOutSet
from app.store.locks import Lock, hold

NONE: Final = 0  # the version that stands for none of them


def add(session: Session, lines: str, prompts: int, actor: str) -> HeldOutSet:
    """Keep a set under the next version; it is not asked yet.

    Args:
        session: of the transaction.
        lines: as they were uploaded.
        prompts: how many of them ask something, > 0.
        actor: the id of the key that uploaded them.

    """
    hold(session, Lock.HELD_OUT)
    written = lines.encode()
    row = HeldOutSet(
        version=1 + (session.scalar(select(func.max(HeldOutSet.version))) or NONE),
        digest=hashlib.sha256(written).hexdigest(),
        lines=lines,
        prompts=prompts,
        size=len(written),
        created_by=actor,
        active=False,
    )
    session.add(row)
    session.flush()
    return row


def activate(session: Session, version: int, actor: str) -> bool:
    """Have the gate ask this version from the next update on; `NONE`: what the settings name. False: it was so already.

    Raises:
        NotFound: there is no such version.

    """
    hold(session, Lock.HELD_OUT)
    before = active_version(session)
    if version != NONE:
        get(session, version)
    if before == version:
        return False
    everything = update(HeldOutSet).execution_options(synchronize_session=False)
    session.execute(everything.where(HeldOutSet.active).values(active=False))
    chosen = {"active": True, "activated_by": actor, "activated_at": now(session)}
    session.execute(everything.where(HeldOutSet.version == version).values(**chosen))
    session.expire_all()
    return True


def get(session: Session, version: int, *, lines: bool = False) -> HeldOutSet:
    """Read one, with its lines where they are wanted.

    Raises:
        NotFound: there is no such version.

    """
    row = session.get(HeldOutSet, version, options=[undefer(HeldOutSet.lines)] if lines else [])
    if row is None:
        raise NotFound(f"There is no held-out set of version {version}; see: lepo data held-out list")
    return row


def list_sets(session: Session) -> list[HeldOutSet]:
    """List all without their lines, the newest first."""
    return list(session.scalars(select(HeldOutSet).order_by(HeldOutSet.version.desc())))


def active(session: Session) -> HeldOutSet | None:
    """Read the one that the gate asks, with its lines; None: it asks what the settings name."""
    return session.scalar(select(HeldOutSet).where(HeldOutSet.active).options(undefer(HeldOutSet.lines)))


def active_version(session: Session) -> int:
    """Say which one the gate asks; `NONE`: what the settings name."""
    return session.scalar(select(HeldOutSet.version).where(HeldOutSet.active)) or NONE
