"""The whole service at a glance: what is served, what was graded and learned, and whether it is getting better.

Read-only counts for the overview page, the demo's live view and whoever watches. What grows with traffic is not counted
here but kept counted (`app.store.tallies`): millions of answers cost no more than none. Leaves out per-process numbers
(requests running, latencies): those are metrics of the server.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.store import learning, lineage, policy_life, tallies
from app.store.tables import Checkpoint, Evaluation, Job, Swap

Text_ = InstrumentedAttribute[str] | InstrumentedAttribute[str | None]


@dataclass(frozen=True, slots=True)
class Point:
    """All that one checkpoint was asked of held-out prompts."""

    version: int  # policy version, 0 is the base model
    correct: int  # prompts answered right
    total: int  # prompts asked, > 0
    accuracy: float  # correct / total
    at: datetime  # when it was last asked


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
    verdicts: dict[str, int]  # finished updates by verdict: promoted, refused, ...
    current_job: CurrentJob | None
    frozen: str | None  # why no update begins until somebody thaws it; None: it is not frozen
    pinned: str | None  # why what serves may not change; None: it may
    undecided: dict[str, str]  # policies that wait for a decision: version -> state
    learned: int  # answers that the serving policy contains
    abandoned: int  # answers that only policies contain that no longer serve
    skipped: dict[str, int]  # answers never learned from, by reason
    swaps: dict[str, int]  # swaps by status: served, failed
    history: list[Point]  # one of each version that was asked, by version


def overview(session: Session) -> Overview:
    """Read the overview in one transaction."""
    serving = policy_life.serving(session)
    before = None if serving is None else policy_life.served_before(session, serving.id)
    control = learning.read(session)
    learned, abandoned = lineage.count_learned(session, None if serving is None else serving.id)
    running = session.execute(select(Job.id, Job.phase, Job.heartbeat_at).where(Job.status == "running")).one_or_none()
    return Overview(
        serving_version=None if serving is None else serving.version,
        previous_version=None if before is None else before.version,
        interactions=tallies.counts(session, "answers").get("", 0),
        grades=tallies.counts(session, "grades"),
        grading=tallies.counts(session, "grading"),
        jobs=_counts(session, Job.status),
        verdicts=_counts(session, Job.verdict, Job.verdict.is_not(None)),
        current_job=None if running is None else CurrentJob(str(running.id), running.phase, running.heartbeat_at),
        frozen=control.frozen_reason,
        pinned=control.pinned_reason,
        undecided={str(row.version): row.state for row in policy_life.undecided(session)},
        learned=learned,
        abandoned=abandoned,
        skipped=tallies.counts(session, "skipped"),
        swaps=_counts(session, Swap.status),
        history=_history(session),
    )


def _counts(session: Session, column: Text_, *where: ColumnElement[bool]) -> dict[str, int]:
    """Count rows by the value of one text column."""
    rows = session.execute(select(column, func.count()).where(*where).group_by(column))
    return {str(value): count for value, count in rows}


def _history(session: Session) -> list[Point]:
    """Pool what each version was asked, over all looks: one look is a small part of the held-out prompts."""
    correct, total = func.sum(Evaluation.correct), func.sum(Evaluation.total)
    rows = session.execute(
        select(Checkpoint.version, correct, total, func.max(Evaluation.created_at))
        .join(Checkpoint, Checkpoint.id == Evaluation.checkpoint_id)
        .group_by(Checkpoint.version)
        .order_by(Checkpoint.version)
    )
    return [Point(name, int(right), int(asked), int(right) / int(asked), at) for name, right, asked, at in rows]
