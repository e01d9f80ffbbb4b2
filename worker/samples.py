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
    graded: Graded  # reward, group and tracker key; of its own grades, or of its episode's where it has no own
    rollout: Rollout
    also: Graded | None = None  # what its episode's grades say beside its own
    bundle: str | None = None  # what it is taken with, where that is not its group: the turns of an episode
    goes_on: bool = False  # whether its text goes on from the prompt's, as a plain completion's does

    @property
    def words(self) -> tuple[Graded, ...]:
        """All that was said of it, one or two."""
        return (self.graded,) if self.also is None else (self.graded, self.also)

    @property
    def of_episode(self) -> bool:
        """Whether a grade of its episode is among it."""
        return self.words[-1].episode is not None

    @property
    def name(self) -> str:
        """Name of what it is taken with."""
        return self.bundle or self.graded.group or str(self.interaction_id)


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
        keys: bundle -> API key it counts for.
        rules: see `Rules`.
        heldout: questions nobody learns from, if there are any.

    """
    samples: list[Sample] = []
    rollouts: dict[UUID, Rollout] = {}
    skipped: dict[UUID, Skipped] = {}
    versions = newest_versions(claimed)
    for one in claimed:
        read = read_rollout(one, rules, heldout)
        if not isinstance(read, Rollout):
            skipped[one.interaction.id] = Skipped(read)
            continue
        rollouts[one.interaction.id] = read
        words = words_of(one, versions)
        if words and rules.overlong == "mask" and read.truncated:
            skipped[one.interaction.id] = Skipped("truncated")
        elif words:
            key = keys.get(one.bundle, NO_KEY)
            also = words[1] if len(words) > 1 else None
            goes_on = one.interaction.endpoint == "completion"
            samples.append(Sample(one.interaction.id, key, words[0], read, also, one.bundle, goes_on))
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
        and any(value is not None and not 0.0 <= value <= 1.0 for value in values_of(one)),
    }
    return next((reason for reason, found in findings.items() if found), rollout)


def values_of(one: Claimed) -> tuple[float | None, float | None]:
    """Give the number of an answer's own grades, and that of its episode's."""
    own = None if one.reward is None else one.reward.value
    return own, None if one.episode is None else one.episode.value


def sound(rollout: Rollout, vocabulary: int) -> bool:
    """Whether a rollout can be replayed at all: ids of this model, weights and log-probabilities that are numbers."""
    ids = torch.cat(
        [rollout.prompt_ids_P, rollout.latent_ids_LK.flatten(), rollout.lead_out_ids_O, rollout.token_ids_T]
    )
    known = bool(((ids >= 0) & (ids < vocabulary)).all()) and len(rollout.prompt_ids_P) > 0
    finite = bool(rollout.latent_weights_LK.isfinite().all() and rollout.token_logprobs_T.isfinite().all())
    return known and finite and drawn_as_allowed(rollout)


def newest_versions(claimed: Sequence[Claimed]) -> dict[UUID, int]:
    """Find the newest policy version among the claimed turns of each episode: session -> version."""
    versions: dict[UUID, int] = {}
    for one in claimed:
        name = one.interaction.session_id
        if one.episode is not None and name is not None:
            versions[name] = max(one.interaction.policy_version, versions.get(name, 0))
    return versions


def words_of(one: Claimed, versions: Mapping[UUID, int]) -> list[Graded]:
    """Put together what the baselines need to know: of the answer's own grades, then of its episode's.

    An answer is compared with the other choices of its response, an episode with others of its key that began with
    the same prompt and task. Those are of one policy where their newest turns are.
    """
    row = one.interaction
    words: list[Graded] = []
    if one.reward is not None:
        words.append(Graded(one.reward.value, row.completion_id, row.policy_version, tracker_key(one)))
    if one.episode is not None:
        assert row.session_id is not None, "a credited answer is a turn of a session"
        words.append(
            Graded(
                one.episode.value,
                one.episode.opening,
                versions[row.session_id],
                f"{tracker_key(one)}/episode",
                episode=row.session_id.hex,
                weight=one.episode.weight,
            )
        )
    return words


def tracker_key(one: Claimed) -> str:
    """Name what a value is tracked for: who asks, for what task (`metadata.task`), judged by what.

    Never the prompt, which rarely comes twice.
    """
    row = one.interaction
    task = str((row.client_metadata or {}).get("task", ""))
    judge = "client" if one.grader_keys or row.grader is None else str(row.grader.get("type", ""))
    return "/".join((row.api_key_id or NO_KEY, task[:100], judge))


def within_shares(samples: Sequence[Sample], share: float) -> list[Sample]:
    """Keep as many bundles of each key as its share allows."""
    sizes = Counter((one.name, one.key) for one in samples)
    groups = [Group(name, key, size) for (name, key), size in sizes.items()]
    chosen = {one.name for one in choose(groups, len(samples), share)}
    return [one for one in samples if one.name in chosen]
