"""The batch of an update: what a job claimed, filtered, measured, resampled where wanted, with an advantage each.

What will not be learned from is settled here, at once, with its reason. Beside the samples stand the baseline each
advantage came from, and the value trackers around it: a tracker's row says at which policy version its key was last
seen; how far the policy had drifted by then stands in that checkpoint's metrics. Leaves out the claim (`worker.claim`),
each step's how (`worker.samples`, `training.divergence`, `worker.resample`, `worker.corrections`) and the arithmetic
(`training.advantage`).
"""

import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median
from typing import Final
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.settings import Settings
from app.store import claims, jobs
from app.store.claims import Skipped
from app.store.key_quota import key_limit
from app.store.tables import Checkpoint
from app.store.tracker import Belief, read_beliefs, write_beliefs
from training.advantage import Baseline, Mode, Tracker, choose_baseline
from training.distill import Correction
from training.models.policy import Policy
from training.objective import divides_advantages
from training.rollout import Rollout
from training.update import Learner
from worker.claim import Assignment
from worker.corrections import corrections_of, think_anew
from worker.gate.evaluation_set import EvaluationSet
from worker.job import RunningJob
from worker.resample import resample
from worker.samples import Rules, Sample, filter_samples, within_shares

UNUSABLE: Final = Skipped("correction_unusable")


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one update learns from; B rollouts."""

    rollouts: list[Rollout]  # B of them
    advantages: list[float]  # B of them, not all 0
    ids: list[UUID]  # interactions behind them, each once: a resampled group has one
    rewards: list[float]  # B of them
    baselines: dict[str, int]  # baseline -> rollouts that used it; one with two words may be under two
    keys: dict[str, int]  # API key -> rollouts
    skipped: dict[UUID, Skipped]  # samples that can never have an advantage
    waiting: list[UUID]  # samples that have none now, and may have one among others
    trackers: dict[str, Tracker]  # after the grades of all samples
    episodes: int = 0  # whose turns are among the rollouts by the episode's grade
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


def gather(
    job: RunningJob, assignment: Assignment, heldout: EvaluationSet | None, policy: Policy, learner: Learner
) -> Batch:
    """Make the batch, with fresh groups where they are wanted, and settle at once what will not be learned from."""
    settings = assignment.settings
    rules = Rules(policy.model.config.vocab_size, settings.baseline, settings.overlong)
    filtered = filter_samples(assignment.claimed, assignment.keys, rules, heldout)
    rng = random.Random(assignment.fence)  # noqa: S311  no secret
    right = thought_through(
        job, corrections_of(assignment.claimed, filtered.rollouts, policy, settings), policy, settings, rng
    )
    near, far = near_enough(job, filtered.samples, learner, settings)
    samples, over = held_to_shares(near, assignment, settings.key_share)
    unusable = set(filtered.rollouts) - set(right) - {one.interaction_id for one in filtered.samples}
    unusable -= set(filtered.skipped)
    left = over
    if settings.resample > 1:
        fresh = resample(samples, assignment.claimed, policy, settings, rng, job.watchdog.check)
        job.note("resample", resampled={"prompts": fresh.prompts, "answers": fresh.answers})
        samples, left = fresh.samples, over + fresh.waiting
    with job.store.session() as session:
        trackers = read_trackers(session, {word.key for one in samples for word in one.words})
        divided = divides_advantages(settings.normalization)
        batch = build(samples, settings.baseline, trackers, assignment.drift, divided=divided).with_corrections(right)
        jobs.held(session, job.job_id, job.fence)
        unlearnable = {**filtered.skipped, **far, **batch.skipped, **dict.fromkeys(unusable, UNUSABLE)}
        claims.skip(session, job.job_id, {one: why for one, why in unlearnable.items() if one not in right})
        claims.give_back(session, job.job_id, [one for one in (*left, *batch.waiting) if one not in right])
        outcomes = claims.outcomes(session, job.job_id)
        assert outcomes.get("claimed", 0) == len(batch.ids), (
            "every claimed answer is in the batch, waits or has a reason"
        )
    job.note(
        "batch",
        rollouts=len(batch.rollouts),
        corrections=len(batch.corrections),
        episodes=batch.episodes,
        baselines=batch.baselines,
        reward_mean=sum(batch.rewards) / max(1, len(batch.rewards)),
        keys=batch.keys,
        skipped={name.removeprefix("skipped:"): n for name, n in outcomes.items() if name.startswith("skipped:")},
        waiting=len(left) + len(batch.waiting),
    )
    return batch


def thought_through(
    job: RunningJob, corrections: Mapping[UUID, Correction], policy: Policy, settings: Settings, rng: random.Random
) -> dict[UUID, Correction]:
    """Teach each correction after thoughts that lead to it; what that changed is noted."""
    found = think_anew(corrections, policy, settings, rng, job.watchdog.check)
    if found.drawn:
        nats = {"given": found.nats_given, "chosen": found.nats_chosen}
        job.note("thoughts", thoughts={"drawn": found.drawn, "nats": nats})
    return found.corrections


def near_enough(
    job: RunningJob, samples: Sequence[Sample], learner: Learner, settings: Settings
) -> tuple[list[Sample], dict[UUID, Skipped]]:
    """Leave out what is too far from the policy that learns, or never explored; every figure is kept on the claim."""
    found = learner.measure([one.rollout for one in samples], cancelled=job.watchdog.asked_to_end)
    measured = {one.interaction_id: far for one, far in zip(samples, found, strict=True)}
    skipped: dict[UUID, Skipped] = {}
    for name, one in measured.items():
        if not one.explored:
            skipped[name] = Skipped("no_exploration", one.nats)
        elif not one.nats <= settings.max_divergence:
            skipped[name] = Skipped("diverged", one.nats)
    with job.store.session() as session:
        jobs.held(session, job.job_id, job.fence)
        claims.measured(session, job.job_id, {name: (one.nats, one.weight) for name, one in measured.items()})
    job.note(
        "measure", divergence=spread_of([one.nats for one in found]), weight=spread_of([one.weight for one in found])
    )
    return [one for one in samples if one.interaction_id not in skipped], skipped


def held_to_shares(samples: Sequence[Sample], assignment: Assignment, share: float) -> tuple[list[Sample], list[UUID]]:
    """Hold each key to its share of what is left, since a key whose answers were left out makes room for none.

    Where the claim itself let a key have more, to fill a batch that had waited long enough, it may.

    Returns:
        The samples to learn from, and the answers that wait.

    """
    if over_share(Counter(assignment.keys[one.bundle] for one in assignment.claimed), share):
        return list(samples), []
    within = within_shares(samples, share)
    taken = {one.interaction_id for one in within}
    return within, [one.interaction_id for one in samples if one.interaction_id not in taken]


def over_share(counts: Mapping[str, int], share: float) -> bool:
    """Whether a key has more of a batch than its share."""
    return max(counts.values(), default=0) > key_limit(counts, share)


def spread_of(values: Sequence[float]) -> dict[str, float]:
    """Describe figures by their mean, median and largest; nothing of none."""
    if not values:
        return {}
    return {"mean": fmean(values), "median": median(values), "largest": max(values)}


def build(
    samples: Sequence[Sample], mode: Mode, trackers: Mapping[str, Tracker], drift: float, *, divided: bool = True
) -> Batch:
    """Give each sample its advantage, and leave out those that have none.

    A rollout whose advantage is 0 (its group agreed) stays: the loss is a mean over all rollouts, so the more groups
    agree, the smaller the step. Only a batch in which nothing pulls is no batch: groups that agree are then spent, and
    single answers wait for others to be compared with.

    A turn's own grades and its episode's are two words: each has its advantage among its like, and they are added.

    Args:
        samples: any number.
        mode: which baselines may be used.
        trackers: state of the samples' keys before this batch.
        drift: the serving policy's cumulative drift, nats.
        divided: whether advantages are divided by their spread.

    """
    if not samples:
        return Batch([], [], [], [], {}, {}, {}, [], {})
    values, baselines, trackers_after = added(samples, mode, trackers, drift, divided=divided)
    pulling = any(value != 0.0 for value in values)
    kept = [index for index, names in enumerate(baselines) if pulling and set(names) != {"none"}]
    left = [(samples[index].interaction_id, baselines[index]) for index in range(len(samples))]
    left = [left[index] for index in sorted(set(range(len(samples))).difference(kept))]
    spent = {one: Skipped("no_group" if set(names) == {"none"} else "no_variance") for one, names in left}
    may_wait = {"tracker", "batch", "none"} if mode != "group" else set[Baseline]()
    waiting = [one for one, names in left if may_wait.intersection(names)]
    return Batch(
        rollouts=[samples[index].rollout for index in kept],
        advantages=[values[index] for index in kept],
        ids=list(dict.fromkeys(samples[index].interaction_id for index in kept)),
        rewards=[samples[index].graded.reward for index in kept],
        baselines=dict(Counter(name for index in kept for name in baselines[index])),
        keys=dict(Counter(samples[index].key for index in kept)),
        skipped={one: reason for one, reason in spent.items() if one not in waiting},
        waiting=waiting,
        trackers=trackers_after,
        episodes=len({word.episode for index in kept for word in samples[index].words} - {None}),
    )


def added(
    samples: Sequence[Sample], mode: Mode, trackers: Mapping[str, Tracker], drift: float, *, divided: bool
) -> tuple[list[float], list[list[Baseline]], dict[str, Tracker]]:
    """Add up the advantages of what was said of each sample: answers among answers, episodes among episodes.

    Returns:
        An advantage and the baselines behind it for every sample, and the trackers after these grades.

    """
    values = [0.0] * len(samples)
    baselines: list[list[Baseline]] = [[] for _ in samples]
    after: dict[str, Tracker] = {}
    for of_episodes in (False, True):
        said = [
            (index, word)
            for index, one in enumerate(samples)
            for word in one.words
            if (word.episode is not None) == of_episodes
        ]
        if not said:
            continue
        found = choose_baseline([word for _, word in said], mode, trackers, drift, divided=divided)
        after |= found.trackers
        for (index, _), value, baseline in zip(said, found.values_B.tolist(), found.baselines, strict=True):
            values[index] += value
            baselines[index].append(baseline)
    return values, baselines, after


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
