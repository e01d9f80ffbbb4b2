"""From claimed answers to samples: what may be learned from, and why the rest may not.

Every claimed answer ends up in exactly one place: a sample, or a reason. A reason is always the data's own: what is
wrong with the world around it (a full disk, a frozen service) never costs an answer. Leaves out which answers are
claimed (`app.store.learnable`) and what a sample is worth (`worker.batch`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

import torch

from app.store.claims import Claimed, Skipped
from app.store.grades import Reward
from app.store.key_quota import Group, choose
from training.advantage import Graded, Mode
from training.allowed import drawn_as_allowed
from training.codec import decode
from training.rollout import Rollout
from worker.gate.evaluation_set import EvaluationSet

Reason = Literal[
    "unreadable",  # its rollout is of a codec this release does not read, damaged, or of another model
    "altered",  # logit_bias, min_tokens or a penalty bent its distribution
    "empty",  # no step to learn from
    "held_out",  # asks what the gate examines
    "no_exploration",  # greedy, or never more than one candidate: nothing was tried
    "truncated",  # cut short, and LEPO_OVERLONG is "mask"
    "diverged",  # the policy that learns would hardly have given it: further than LEPO_MAX_DIVERGENCE
    "reward_out_of_range",  # a value tracker takes rewards in [0, 1]
    "no_group",  # alone, and the baseline is "group"
    "no_variance",  # its group agreed, and nothing else in the batch pulled
    "correction_unusable",  # only corrected, and the correction is longer than an answer may be
    "refused",  # what was learned from it was refused, twice
]

Overlong = Literal["learn", "mask"]  # what an answer that was cut short teaches: its grade, or nothing

NO_KEY: Final = ""  # stands for answers and grades that came without a key


@dataclass(frozen=True, slots=True)
class Rules:
    """What a sample must satisfy."""

    vocabulary: int  # token ids are below it
    baseline: Mode  # where single grades' expectation comes from
    overlong: Overlong = "learn"  # what becomes of an answer that was cut short


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One graded answer to learn from."""

    interaction_id: UUID
    key: str  # API key it counts for; NO_KEY if none
    graded: Graded  # reward, group and tracker key
    rollout: Rollout


@dataclass(frozen=True, slots=True, eq=False)
class Filtered:
    """Samples, corrected answers without a number, and leftovers; together they are all that was claimed.

    An answer that was cut short may be a leftover and still be learned from by its correction.
    """

    samples: list[Sample]
    rollouts: dict[UUID, Rollout]  # of every answer that can be replayed, those without a number included
    skipped: dict[UUID, Skipped]


def filter_samples(
    claimed: Sequence[Claimed], keys: Mapping[str, str], rules: Rules, heldout: EvaluationSet | None
) -> Filtered:
    """Sort claimed answers into samples and reasons.

    Args:
        claimed: what the job holds.
        keys: response -> API key it counts for.
        rules: see `Rules`.
        heldout: questions nobody learns from, if there are any.

    """
    samples: list[Sample] = []
    rollouts: dict[UUID, Rollout] = {}
    skipped: dict[UUID, Skipped] = {}
    for one in claimed:
        read = read_rollout(one, rules, heldout)
        if not isinstance(read, Rollout):
            skipped[one.interaction.id] = Skipped(read)
            continue
        rollouts[one.interaction.id] = read
        if one.reward is not None and rules.overlong == "mask" and read.truncated:
            skipped[one.interaction.id] = Skipped("truncated")
        elif one.reward is not None:
            samples.append(sample(one, one.reward, read, keys.get(one.interaction.completion_id, NO_KEY)))
    return Filtered(samples, rollouts, skipped)


def read_rollout(one: Claimed, rules: Rules, heldout: EvaluationSet | None) -> Rollout | Reason:
    """Read one rollout, or say why it is not learned from."""
    try:
        rollout = decode(one.payload)
    except ValueError:
        return "unreadable"
    asks_held_out = heldout is not None and heldout.holds(one.interaction.request, rollout.asked_ids_P.tolist())
    findings: dict[Reason, bool] = {
        "unreadable": not sound(rollout, rules.vocabulary),
        "held_out": asks_held_out,
        "altered": rollout.altered,
        "empty": rollout.latent_length + rollout.answer_length == 0,
        "reward_out_of_range": rules.baseline == "tracker"
        and one.reward is not None
        and not 0.0 <= one.reward.value <= 1.0,
    }
    return next((reason for reason, found in findings.items() if found), rollout)


def sound(rollout: Rollout, vocabulary: int) -> bool:
    """Whether a rollout can be replayed at all: ids of this model, weights and log-probabilities that are numbers."""
    ids = torch.cat(
        [rollout.prompt_ids_P, rollout.latent_ids_LK.flatten(), rollout.lead_out_ids_O, rollout.token_ids_T]
    )
    known = bool(((ids >= 0) & (ids < vocabulary)).all()) and len(rollout.prompt_ids_P) > 0
    finite = bool(rollout.latent_weights_LK.isfinite().all() and rollout.token_logprobs_T.isfinite().all())
    return known and finite and drawn_as_allowed(rollout)


def sample(one: Claimed, reward: Reward, rollout: Rollout, key: str) -> Sample:
    """Put together what the baselines need to know."""
    row = one.interaction
    graded = Graded(
        reward=reward.value, group=row.completion_id, policy_version=row.policy_version, key=tracker_key(one)
    )
    return Sample(row.id, key, graded, rollout)


def tracker_key(one: Claimed) -> str:
    """Name what a value is tracked for: who asks, for what task (`metadata.task`), judged by what.

    Never the prompt, which rarely comes twice.
    """
    row = one.interaction
    task = str((row.client_metadata or {}).get("task", ""))
    judge = "client" if one.grader_keys or row.grader is None else str(row.grader.get("type", ""))
    return "/".join((row.api_key_id or NO_KEY, task[:100], judge))


def within_shares(samples: Sequence[Sample], share: float) -> list[Sample]:
    """Keep as many groups of each key as its share allows."""
    sizes = Counter((one.graded.group or str(one.interaction_id), one.key) for one in samples)
    groups = [Group(name, key, size) for (name, key), size in sizes.items()]
    chosen = {one.name for one in choose(groups, len(samples), share)}
    return [one for one in samples if (one.graded.group or str(one.interaction_id)) in chosen]
