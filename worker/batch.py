"""From lessons to a batch: an advantage for each, the baseline it came from, and the trackers after it.

Leaves out what may be learned from (`worker.lessons`) and the arithmetic (`training.advantage`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from training.advantage import Baseline, Mode, Tracker, choose_baseline
from training.rollout import Rollout
from worker.lessons import Lesson, Reason


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one update learns from; B rollouts."""

    rollouts: list[Rollout]  # B of them
    advantages: list[float]  # B of them, not all 0
    ids: list[UUID]  # interactions behind them, each once: a fresh group has one
    rewards: list[float]  # B of them
    baselines: dict[str, int]  # baseline -> rollouts that used it
    keys: dict[str, int]  # API key -> rollouts
    skipped: dict[UUID, Reason]  # lessons without an advantage
    trackers: dict[str, Tracker]  # after the grades of all lessons


def build(lessons: Sequence[Lesson], mode: Mode, trackers: Mapping[str, Tracker], drift: float) -> Batch:
    """Give each lesson its advantage, and leave out those that have none.

    A rollout whose advantage is 0 (its group agreed) stays: the loss is a mean over all rollouts, so the more groups
    agree, the smaller the step. Only a batch in which nothing pulls is no batch.

    Args:
        lessons: any number.
        mode: which baselines may be used.
        trackers: state of the lessons' keys before this batch.
        drift: the serving policy's cumulative drift, nats.

    """
    if not lessons:
        return Batch([], [], [], [], {}, {}, {}, {})
    advantages = choose_baseline([one.graded for one in lessons], mode, trackers, drift)
    values = advantages.values_B.tolist()
    pulling = any(value != 0.0 for value in values)
    kept = [index for index, baseline in enumerate(advantages.baselines) if pulling and baseline != "none"]
    silent = sorted(set(range(len(lessons))).difference(kept))
    return Batch(
        rollouts=[lessons[index].rollout for index in kept],
        advantages=[values[index] for index in kept],
        ids=list(dict.fromkeys(lessons[index].interaction_id for index in kept)),
        rewards=[lessons[index].graded.reward for index in kept],
        baselines=dict(Counter(advantages.baselines[index] for index in kept)),
        keys=dict(Counter(lessons[index].key for index in kept)),
        skipped={lessons[index].interaction_id: unheard(advantages.baselines[index]) for index in silent},
        trackers=advantages.trackers,
    )


def unheard(baseline: Baseline) -> Reason:
    """Say why a lesson is left out."""
    return "no_group" if baseline == "none" else "no_variance"
