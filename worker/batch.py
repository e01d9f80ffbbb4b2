"""From samples to a batch: an advantage for each, the baseline it came from, and the value trackers around it.

A tracker's row says at which policy version its key was last seen; how far the policy had drifted by then stands in
that checkpoint's metrics. Leaves out what may be learned from (`worker.samples`) and the arithmetic
(`training.advantage`).
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.store.claims import Skipped
from app.store.tables import Checkpoint
from app.store.tracker import Belief, read_beliefs, write_beliefs
from training.advantage import Mode, Tracker, choose_baseline
from training.distill import Correction
from training.rollout import Rollout
from worker.samples import Sample


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one update learns from; B rollouts."""

    rollouts: list[Rollout]  # B of them
    advantages: list[float]  # B of them, not all 0
    ids: list[UUID]  # interactions behind them, each once: a resampled group has one
    rewards: list[float]  # B of them
    baselines: dict[str, int]  # baseline -> rollouts that used it
    keys: dict[str, int]  # API key -> rollouts
    skipped: dict[UUID, Skipped]  # samples that can never have an advantage
    waiting: list[UUID]  # samples that have none now, and may have one among others
    trackers: dict[str, Tracker]  # after the grades of all samples
    corrections: list[Correction] = field(default_factory=list)  # answers that should have been given

    def with_corrections(self, corrections: Mapping[UUID, Correction]) -> "Batch":
        """Add corrected answers; one that taught nothing by its number is in the batch by its correction."""
        taught = set(corrections)
        return replace(
            self,
            ids=list(dict.fromkeys([*self.ids, *corrections])),
            skipped={one: why for one, why in self.skipped.items() if one not in taught},
            waiting=[one for one in self.waiting if one not in taught],
            corrections=list(corrections.values()),
        )

    @property
    def empty(self) -> bool:
        """Whether there is nothing to learn from."""
        return not self.rollouts and not self.corrections


def build(
    samples: Sequence[Sample], mode: Mode, trackers: Mapping[str, Tracker], drift: float, *, divided: bool = True
) -> Batch:
    """Give each sample its advantage, and leave out those that have none.

    A rollout whose advantage is 0 (its group agreed) stays: the loss is a mean over all rollouts, so the more groups
    agree, the smaller the step. Only a batch in which nothing pulls is no batch: groups that agree are then spent, and
    single answers wait for others to be compared with.

    Args:
        samples: any number.
        mode: which baselines may be used.
        trackers: state of the samples' keys before this batch.
        drift: the serving policy's cumulative drift, nats.
        divided: whether advantages are divided by their spread.

    """
    if not samples:
        return Batch([], [], [], [], {}, {}, {}, [], {})
    advantages = choose_baseline([one.graded for one in samples], mode, trackers, drift, divided=divided)
    values = advantages.values_B.tolist()
    pulling = any(value != 0.0 for value in values)
    kept = [index for index, baseline in enumerate(advantages.baselines) if pulling and baseline != "none"]
    left = [(samples[index].interaction_id, advantages.baselines[index]) for index in range(len(samples))]
    left = [left[index] for index in sorted(set(range(len(samples))).difference(kept))]
    spent = {one: Skipped("no_group" if baseline == "none" else "no_variance") for one, baseline in left}
    waiting = [one for one, baseline in left if baseline in ({"tracker", "batch", "none"} if mode != "group" else ())]
    return Batch(
        rollouts=[samples[index].rollout for index in kept],
        advantages=[values[index] for index in kept],
        ids=list(dict.fromkeys(samples[index].interaction_id for index in kept)),
        rewards=[samples[index].graded.reward for index in kept],
        baselines=dict(Counter(advantages.baselines[index] for index in kept)),
        keys=dict(Counter(samples[index].key for index in kept)),
        skipped={one: reason for one, reason in spent.items() if one not in waiting},
        waiting=waiting,
        trackers=advantages.trackers,
    )


def read_trackers(session: Session, keys: Collection[str]) -> dict[str, Tracker]:
    """Read the trackers of these keys; those never seen are left out."""
    beliefs = read_beliefs(session, sorted(keys))
    versions = {belief.policy_version for belief in beliefs.values()}
    rows = session.execute(select(Checkpoint.version, Checkpoint.metrics).where(Checkpoint.version.in_(versions)))
    drifts = {version: float(metrics.get("drift", 0.0)) for version, metrics in rows}
    return {
        key: Tracker(belief.alpha, belief.beta, drifts.get(belief.policy_version, 0.0))
        for key, belief in beliefs.items()
    }


def write_trackers(session: Session, trackers: Mapping[str, Tracker], version: int) -> None:
    """Keep trackers as last seen at a policy version."""
    write_beliefs(session, {key: Belief(one.alpha, one.beta, version) for key, one in trackers.items()})
