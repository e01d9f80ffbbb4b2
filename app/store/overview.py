"""The whole service at a glance: what is served, what was graded and learned, and whether it is getting better.

Read-only counts for the overview page, the demo's live view and whoever watches. Leaves out per-process numbers
(requests running, latencies): those are metrics of the server.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.store.tables import Alias, Checkpoint, Claim, Evaluation, Grade, Interaction, Job, Swap

Text_ = InstrumentedAttribute[str] | InstrumentedAttribute[str | None]


@dataclass(frozen=True, slots=True)
class Point:
    """One evaluation of one checkpoint on held-out prompts."""

    version: int  # policy version, 0 is the base model
    correct: int  # prompts answered right
    total: int  # prompts asked, > 0
    accuracy: float  # correct / total
    at: datetime


@dataclass(frozen=True, slots=True)
class CurrentJob:
    """The update that is running."""

    id: str
    phase: str | None
    heartbeat_at: datetime | None


@dataclass(frozen=True, slots=True)
class Overview:
    """Counts since the database was made; example: grades={"client": 410, "string_check": 390}."""

    serving_version: int | None  # None before the first server has registered a model
    previous_version: int | None
    interactions: int  # answers kept
    grades: dict[str, int]  # ledger entries in state graded, by kind of grader
    grading: dict[str, int]  # answers by grading state: pending, graded, failed (none is left out)
    jobs: dict[str, int]  # updates by status
    verdicts: dict[str, int]  # finished updates by verdict: promoted, rejected, ...
    current_job: CurrentJob | None
    learned: int  # answers that entered a promoted update
    skipped: dict[str, int]  # answers never learned from, by reason
    swaps: dict[str, int]  # swaps by status: served, failed
    history: list[Point]  # evaluations, oldest first


def overview(session: Session) -> Overview:
    """Read the overview in one transaction."""
    versions = dict(
        session.execute(
            select(Alias.name, Checkpoint.version).join(Checkpoint, Checkpoint.id == Alias.checkpoint_id)
        ).all()
    )
    running = session.execute(select(Job.id, Job.phase, Job.heartbeat_at).where(Job.status == "running")).one_or_none()
    return Overview(
        serving_version=versions.get("serving"),
        previous_version=versions.get("previous"),
        interactions=session.scalar(select(func.count()).select_from(Interaction)) or 0,
        grades=_counts(session, Grade.grader_kind, Grade.state == "graded"),
        grading=_counts(session, Interaction.grading_state, Interaction.grading_state != "none"),
        jobs=_counts(session, Job.status),
        verdicts=_counts(session, Job.verdict, Job.verdict.is_not(None)),
        current_job=None if running is None else CurrentJob(str(running.id), running.phase, running.heartbeat_at),
        learned=_counts(session, Claim.outcome, Claim.outcome == "learned").get("learned", 0),
        skipped=_counts(session, Claim.reason, Claim.outcome == "skipped"),
        swaps=_counts(session, Swap.status),
        history=_history(session),
    )


def _counts(session: Session, column: Text_, *where: ColumnElement[bool]) -> dict[str, int]:
    """Count rows by the value of one text column."""
    rows = session.execute(select(column, func.count()).where(*where).group_by(column))
    return {str(value): count for value, count in rows}


def _history(session: Session) -> list[Point]:
    rows = session.execute(
        select(Checkpoint.version, Evaluation.correct, Evaluation.total, Evaluation.accuracy, Evaluation.created_at)
        .join(Checkpoint, Checkpoint.id == Evaluation.checkpoint_id)
        .order_by(Evaluation.created_at)
    )
    return [Point(*row) for row in rows]
