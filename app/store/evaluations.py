"""Evaluations: how many held-out prompts a checkpoint answered right.

Leaves out asking and judging (`worker`, `training.statistics.gate`).
"""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.store.base import Json
from app.store.tables import Evaluation


def record_evaluation(
    session: Session, checkpoint_id: UUID, kind: str, *, correct: int, total: int, detail: Json | None = None
) -> Evaluation:
    """Write an evaluation.

    Args:
        session: a transaction.
        checkpoint_id: whose answers they were.
        kind: `gate`, `heldout` or `base`.
        correct: prompts answered right.
        total: prompts asked, at least 1.
        detail: whatever explains the figure.

    Raises:
        ValueError: the counts are impossible.

    """
    if not 0 <= correct <= total or total < 1:
        raise ValueError(f"{correct} right of {total} is impossible")
    row = Evaluation(
        checkpoint_id=checkpoint_id, kind=kind, correct=correct, total=total, accuracy=correct / total, detail=detail
    )
    session.add(row)
    session.flush()
    return row


def list_evaluations(session: Session, *, checkpoint_id: UUID | None = None, limit: int = 100) -> list[Evaluation]:
    """List evaluations, the newest first."""
    query = select(Evaluation).order_by(Evaluation.id.desc()).limit(limit)
    if checkpoint_id is not None:
        query = query.where(Evaluation.checkpoint_id == checkpoint_id)
    return list(session.scalars(query))


def latest_evaluation(session: Session, checkpoint_id: UUID, kind: str | None = None) -> Evaluation | None:
    """Read a checkpoint's last evaluation, of one kind if named."""
    query = select(Evaluation).where(Evaluation.checkpoint_id == checkpoint_id).order_by(Evaluation.id.desc()).limit(1)
    if kind is not None:
        query = query.where(Evaluation.kind == kind)
    return session.scalar(query)
