"""How learning goes, for Prometheus: read from the store, where the truth is, by every server alike.

A worker has no port: it may be busy for minutes, and one that is gone could not say so. So the age of the oldest grade
that waits grows though no worker is there to tell it. The figures are of the whole service: over several servers take
their maximum, not their sum. Leaves out the overview for people (`app.store.overview`).
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.store import clock, learning, policy_life
from app.store.tables import Checkpoint, Claim, Interaction, Job
from app.telemetry.improving import heldout_accuracy, live_reward

FRESH_S: Final = 5.0  # how long figures are shown again: /metrics is open, and must cost the database little
MOST_COUNTED: Final = 100_000  # waiting answers that are looked at; a longer backlog needs no more figures
WINDOW: Final = timedelta(days=1)  # in which updates are counted

Condition = ColumnElement[bool] | InstrumentedAttribute[bool]
When = InstrumentedAttribute[datetime] | InstrumentedAttribute[datetime | None]


@dataclass(frozen=True, slots=True)
class LearningFigures:
    """At one moment, by the database's clock."""

    pending: int  # answers whose grader has not come to an end
    oldest_pending_s: float  # age of the oldest of them; 0: none
    waiting: int  # graded answers that nothing was learned from yet and could be
    oldest_waiting_s: float  # seconds since the first of them was graded; 0: none
    last_update: float | None  # Unix seconds when the last update that made a policy ended; None: none yet
    staleness: float | None  # mean versions from its answers to the policy that learned from them; None: not known
    divergence: float | None  # mean nats per step between the two
    outcomes: dict[str, int]  # updates that ended in WINDOW, by verdict, else by status: {"promoted": 41, "failed": 1}
    live_reward: float | None  # mean of the serving policy's newest graded answers; None: it has none
    heldout_accuracy: float | None  # share of held-out prompts it answered right, 0 to 1; None: it was not asked
    frozen: bool  # whether no update begins until somebody thaws learning


def read_figures(session: Session) -> LearningFigures:
    """Read them in one transaction, by indexes that hold only what waits."""
    now = clock.now(session)
    pending = Interaction.grading_state == "pending"
    tried = Interaction.grading_attempts > 0
    parts = [waits(session, now, Interaction.created_at, pending, some) for some in (tried, ~tried)]
    fresh: tuple[Condition, ...] = (Interaction.graded_at.is_not(None), Interaction.learnable, ~Interaction.claimed)
    waiting, oldest_waiting_s = waits(session, now, Interaction.graded_at, *fresh)
    last = session.execute(
        select(Job.id, Job.finished_at, Checkpoint.version)
        .join(Checkpoint, Checkpoint.id == Job.base_checkpoint_id)
        .where(Job.result_checkpoint_id.is_not(None), Job.finished_at.is_not(None))
        .order_by(Job.finished_at.desc())
        .limit(1)
    ).one_or_none()
    served = policy_life.serving(session)
    age, divergence = (None, None) if last is None else distance(session, last.id, last.version)
    return LearningFigures(
        pending=sum(count for count, _ in parts),
        oldest_pending_s=max(oldest for _, oldest in parts),
        waiting=waiting,
        oldest_waiting_s=oldest_waiting_s,
        last_update=None if last is None else last.finished_at.timestamp(),
        staleness=age,
        divergence=divergence,
        outcomes=outcomes(session, now - WINDOW),
        live_reward=None if served is None else live_reward(session, served.id),
        heldout_accuracy=None if served is None else heldout_accuracy(session, served.id),
        frozen=learning.read(session).frozen_at is not None,
    )


def waits(session: Session, now: datetime, since: When, *which: Condition) -> tuple[int, float]:
    """Count answers that wait for something, MOST_COUNTED at most, and say for how many seconds the first has."""
    some = select(since.label("since")).where(*which).limit(MOST_COUNTED).subquery()
    count, oldest = session.execute(select(func.count(), func.min(some.c.since))).one()
    return count, 0.0 if oldest is None else max(0.0, (now - oldest).total_seconds())


def distance(session: Session, job_id: UUID, version: int) -> tuple[float | None, float | None]:
    """Say how far the answers of an update were from the policy of that version, in versions and in nats per step."""
    query = (
        select(func.avg(version - Interaction.policy_version), func.avg(Claim.divergence))
        .join(Claim, Claim.interaction_id == Interaction.id)
        .where(Claim.job_id == job_id, Claim.outcome != "skipped")
    )
    age, divergence = session.execute(query).one()
    return None if age is None else float(age), None if divergence is None else float(divergence)


def outcomes(session: Session, since: datetime) -> dict[str, int]:
    """Count the updates that ended since then by what came of them."""
    outcome = func.coalesce(Job.verdict, Job.status)
    found = session.execute(select(outcome, func.count()).where(Job.finished_at >= since).group_by(outcome))
    return {str(name): int(count) for name, count in found}


class LearningCollector(Collector):
    """Shows the figures read last; whoever serves /metrics gives it new ones when they are due."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._figures: LearningFigures | None = None
        self._read_at = float("-inf")

    @property
    def due(self) -> bool:
        """Whether the figures should be read again."""
        return time.monotonic() - self._read_at >= FRESH_S

    def show(self, figures: LearningFigures | None) -> None:
        """Take new figures; None: the store could not be asked, so there are none to show."""
        self._figures, self._read_at = figures, time.monotonic()

    def describe(self) -> Iterable[Metric]:
        """Name nothing beforehand: the store may be away."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Write them."""
        figures = self._figures
        yield GaugeMetricFamily(
            f"{self._prefix}store_up", "Whether Postgres answered when it was last asked.", value=figures is not None
        )
        if figures is None:
            return
        gauges = {
            "grades_pending": ("Answers whose grader has not run yet.", figures.pending),
            "grades_pending_oldest_seconds": ("Age of the oldest of them.", figures.oldest_pending_s),
            "grades_waiting": ("Graded answers to learn from.", figures.waiting),
            "grades_waiting_oldest_seconds": ("Since the first of them was graded.", figures.oldest_waiting_s),
            "last_update_timestamp_seconds": ("When the last update that made a policy ended.", figures.last_update),
            "last_update_staleness": ("Mean versions from its answers to who learned from them.", figures.staleness),
            "last_update_divergence": ("Mean nats per step between the two.", figures.divergence),
            "live_reward": ("Mean reward of the newest graded answers of what serves.", figures.live_reward),
            "heldout_accuracy": (
                "Share of held-out prompts it answered right.",
                figures.heldout_accuracy,
            ),
            "learning_frozen": ("1: no update begins until somebody thaws learning.", figures.frozen),
        }
        for name, (words, value) in gauges.items():
            if value is not None:
                yield GaugeMetricFamily(self._prefix + name, words, value=value)
        updates = GaugeMetricFamily(
            f"{self._prefix}updates_last_day", "Updates ended in the last 24 hours, by outcome.", labels=("outcome",)
        )
        for outcome, count in sorted(figures.outcomes.items()):
            updates.add_metric((outcome,), count)
        yield updates
