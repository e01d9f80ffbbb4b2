"""The batch of an update: what a job claimed, filtered, measured, resampled where wanted, with an advantage each.

What will not be learned from is settled here, at once, with its reason. Leaves out the claim (`worker.work`) and each
step's how (`worker.samples`, `training.divergence`, `worker.resample`, `worker.corrections`, `worker.batch`).
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Final
from uuid import UUID

from app.settings import Settings
from app.store import claims, jobs
from app.store.claims import Skipped
from app.store.key_quota import Group, choose, key_limit
from training.distill import Correction
from training.objective import divides_advantages
from training.policy import Policy
from training.update import Learner
from worker.batch import Batch, build, read_trackers
from worker.corrections import corrections_of
from worker.evaluation_set import EvaluationSet
from worker.job import RunningJob
from worker.resample import resample
from worker.samples import Rules, Sample, filter_samples
from worker.thoughts import think_anew
from worker.work import Assignment

UNUSABLE: Final = Skipped("correction_unusable")


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
    samples, over = within_shares(near, assignment, settings.key_share)
    unusable = set(filtered.rollouts) - set(right) - {one.interaction_id for one in filtered.samples}
    unusable -= set(filtered.skipped)
    left = over
    if settings.resample > 1:
        fresh = resample(samples, assignment.claimed, policy, settings, rng, job.watchdog.check)
        job.note("resample", resampled={"prompts": fresh.prompts, "answers": fresh.answers})
        samples, left = fresh.samples, over + fresh.waiting
    with job.store.session() as session:
        trackers = read_trackers(session, {one.graded.key for one in samples})
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


def within_shares(samples: Sequence[Sample], assignment: Assignment, share: float) -> tuple[list[Sample], list[UUID]]:
    """Hold each key to its share of what is left, since a key whose answers were left out makes room for none.

    Where the claim itself let a key have more, to fill a batch that had waited long enough, it may.

    Returns:
        The samples to learn from, and the answers that wait.

    """
    if over_share(Counter(assignment.keys[one.interaction.completion_id] for one in assignment.claimed), share):
        return list(samples), []
    sizes = Counter((one.graded.group or str(one.interaction_id), one.key) for one in samples)
    kept = {one.name for one in choose([Group(*name, size) for name, size in sizes.items()], len(samples), share)}
    within = [one for one in samples if (one.graded.group or str(one.interaction_id)) in kept]
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
