"""Whether and how boldly the service learns: frozen or not, what serves pinned or not, and the back-off after refusals.

One row, which is also the lock under which policies move (`app.store.policy_life`). Operators freeze, thaw, pin and
unpin; refused candidates make the next update smaller and slower, and a candidate that passes makes it bolder again.
Every change by a person or a rule is a row of `transitions` on what serves, so that the history says who. Leaves out
what an update is (`worker`).
"""

from typing import Final, Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.errors import Conflict
from app.store.tables import Checkpoint, Learning, Transition

SMALLEST_SCALE: Final = 1 / 64  # neither rate nor batch is scaled down further
RECOVERY: Final = 2**0.5  # by which the rate rises when a candidate passes: at rest, one in three is refused

Change = Literal["freeze", "thaw", "pin", "unpin"]


def lock(session: Session) -> Learning:
    """Read the row and hold it until the transaction ends."""
    query = select(Learning).where(Learning.id == 1).with_for_update()
    return session.scalars(query.execution_options(populate_existing=True)).one()


def read(session: Session) -> Learning:
    """Read the row."""
    return session.scalars(select(Learning).where(Learning.id == 1)).one()


def freeze(session: Session, actor: str, reason: str) -> bool:
    """Begin no update until thawed; one that runs is ended, and what it claimed is given back.

    Returns:
        Whether anything changed: who froze first is remembered.

    """
    row = lock(session)
    if row.frozen_at is not None:
        return False
    row.frozen_at, row.frozen_by, row.frozen_reason = func.now(), actor, reason
    note(session, "freeze", actor, reason)
    return True


def thaw(session: Session, actor: str, reason: str = "thawed by an operator") -> bool:
    """Learn again; refusals are forgotten, the back-off is not. Returns whether anything changed."""
    row = lock(session)
    if row.frozen_at is None:
        return False
    row.frozen_at = row.frozen_by = row.frozen_reason = None
    row.refusals = 0
    note(session, "thaw", actor, reason)
    return True


def pin(session: Session, actor: str, reason: str) -> bool:
    """Keep what serves: nothing is promoted, and nothing learned, until it is unpinned. Returns whether it changed."""
    row = lock(session)
    if row.pinned_at is not None:
        return False
    row.pinned_at, row.pinned_by, row.pinned_reason = func.now(), actor, reason
    note(session, "pin", actor, reason)
    return True


def unpin(session: Session, actor: str, reason: str = "unpinned by an operator") -> bool:
    """Let what serves change again. Returns whether anything changed."""
    row = lock(session)
    if row.pinned_at is None:
        return False
    row.pinned_at = row.pinned_by = row.pinned_reason = None
    note(session, "unpin", actor, reason)
    return True


def back_off(session: Session, freeze_after: int) -> None:
    """Note a refusal: half the learning rate, half the batch; after `freeze_after` in a row, freeze."""
    row = lock(session)
    row.refusals += 1
    row.rate_scale = max(SMALLEST_SCALE, row.rate_scale / 2)
    row.batch_scale = max(SMALLEST_SCALE, row.batch_scale / 2)
    row.updated_at = func.now()
    if row.refusals >= freeze_after:
        freeze(session, "gate", f"{row.refusals} candidates were refused in a row; look at the last jobs, then thaw")


def start_over(session: Session) -> None:
    """Forget refusals in a row: they were of candidates that followed what no longer serves. The back-off stays."""
    row = lock(session)
    row.refusals = 0
    row.updated_at = func.now()


def recover(session: Session) -> None:
    """Note a candidate that passed: the rate rises, two of them undo a refusal; the batch is whole."""
    row = lock(session)
    if row.refusals or row.rate_scale < 1 or row.batch_scale < 1:
        row.refusals, row.batch_scale = 0, 1.0
        row.rate_scale = min(1.0, row.rate_scale * RECOVERY)
        row.updated_at = func.now()


def note(session: Session, change: Change, actor: str, reason: str) -> None:
    """Write a change into the history of what serves.

    Raises:
        Conflict: nothing serves yet.

    """
    served = session.scalar(select(Checkpoint).where(Checkpoint.state == "serving"))
    if served is None:
        raise Conflict("Nothing serves yet: start a server first")
    session.add(
        Transition(
            checkpoint_id=served.id,
            from_state="serving",
            to_state="serving",
            event=change,
            actor=actor,
            reason=reason,
            figures={},
        )
    )
    session.flush()
