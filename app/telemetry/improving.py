"""Whether it is improving, in two figures of what serves now: its live reward and its held-out accuracy.

For Prometheus (`app.telemetry.learning`), so bounded and cheap. Leaves out every other version and the intervals: those
are the console's (`app.store.console_overview`, `app.store.overview`).
"""

from typing import Final
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.store.tables import Evaluation, Interaction

NEWEST: Final = 400  # graded answers of the serving policy that are averaged


def live_reward(session: Session, checkpoint_id: UUID) -> float | None:
    """Average the newest graded answers of a checkpoint; None: it has none."""
    newest = (
        select(Interaction.reward)
        .where(Interaction.checkpoint_id == checkpoint_id, Interaction.graded_at.is_not(None))
        .order_by(Interaction.graded_at.desc())
        .limit(NEWEST)
        .subquery()
    )
    mean = session.scalar(select(func.avg(newest.c.reward)))
    return None if mean is None else float(mean)


def heldout_accuracy(session: Session, checkpoint_id: UUID) -> float | None:
    """Give the share of held-out prompts that a checkpoint answered right, over all looks; None: it was not asked."""
    right, asked = func.sum(Evaluation.correct), func.sum(Evaluation.total)
    counts = session.execute(select(right, asked).where(Evaluation.checkpoint_id == checkpoint_id)).one()
    return None if counts[1] is None else int(counts[0]) / int(counts[1])
