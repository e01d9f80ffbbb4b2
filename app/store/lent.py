"""Grading tokens that were lent to browsers: how many grades are left of each, and taking them back.

Leaves out their text and its signature (`app.api.door.grading_tokens`).
"""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.errors import Forbidden
from app.store.removal import rows_of
from app.store.tenants import LentToken


def lend(session: Session, interaction_id: UUID, key_id: str, grades: int, lasts: timedelta) -> LentToken:
    """Write a token down that may write so many entries on one answer."""
    row = LentToken(
        interaction_id=interaction_id,
        api_key_id=key_id,
        grades=grades,
        expires_at=func.date_trunc("second", func.clock_timestamp() + lasts),
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def use(session: Session, token_id: UUID) -> None:
    """Take one entry off a token.

    Raises:
        Forbidden: none is left, or it was taken back.

    """
    taken = (
        update(LentToken)
        .where(LentToken.id == token_id, LentToken.used < LentToken.grades, LentToken.revoked_at.is_(None))
        .values(used=LentToken.used + 1)
        .returning(LentToken.id)
        .execution_options(synchronize_session=False)
    )
    if session.scalar(taken) is None:
        raise Forbidden(
            "This grading token has been used as often as it may be, or was taken back; ask for a new one.",
            code="grading_token_used_up",
        )


def take_back(session: Session, interaction_id: UUID, *, key_id: str | None, token_id: UUID | None) -> int:
    """Close the open tokens of an answer: those of one key, or all (None); or one of them. Returns how many."""
    mine = (LentToken.interaction_id == interaction_id) & LentToken.revoked_at.is_(None)
    if key_id is not None:
        mine &= LentToken.api_key_id == key_id
    if token_id is not None:
        mine &= LentToken.id == token_id
    return rows_of(session, update(LentToken).where(mine).values(revoked_at=func.now()))


def is_open(session: Session, token_id: UUID) -> bool:
    """Tell whether a token is known and was not taken back."""
    return session.scalar(select(LentToken.revoked_at.is_(None)).where(LentToken.id == token_id)) is True
