"""From claimed interactions to lessons: what may be learned from, and why the rest may not.

Every claimed interaction ends up in exactly one place: a lesson, or a reason. Leaves out which interactions are claimed
(`app.store.claims`) and what a lesson is worth (`worker.batch`).
"""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from app.store.claims import Claimed
from training.advantage import Graded, Mode
from training.codec import decode
from training.rollout import Rollout
from worker.evaluation_set import EvaluationSet
from worker.share import cut

Reason = Literal[
    "stale",  # sampled by a policy too old (noted by the store's claim)
    "rolled_back",  # sampled by a policy newer than the serving one: it was rolled back
    "held_out",  # asks what the gate examines
    "altered",  # logit_bias or min_tokens bent its distribution
    "unreadable",  # its rollout is of a codec this release does not read, or damaged
    "empty",  # no step to learn from
    "reward_out_of_range",  # a value tracker takes rewards in [0, 1]
    "key_cap",  # its API key holds too large a share
    "no_variance",  # everything claimed with it was as good as expected: nothing pulls
    "no_group",  # alone, and the baseline is "group"
    "rejected",  # a guard or the gate refused what was learned from it
    "failed_jobs",  # it was in job after job that failed
]

NO_KEY: Final = ""  # stands for answers and grades that came without a key


@dataclass(frozen=True, slots=True)
class Rules:
    """What the batch must satisfy."""

    serving_version: int  # version of the policy that is to learn
    baseline: Mode  # where single grades' expectation comes from
    key_share: float  # largest share of one API key, in [0, 1]


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """One graded answer to learn from."""

    interaction_id: UUID
    key: str  # API key its grade is charged to; NO_KEY if none
    graded: Graded  # reward, group and tracker key
    rollout: Rollout


@dataclass(frozen=True, slots=True, eq=False)
class Sifted:
    """Lessons and leftovers; together they are all that was claimed."""

    lessons: list[Lesson]
    skipped: dict[UUID, Reason]


def sift(claimed: Sequence[Claimed], rules: Rules, heldout: EvaluationSet | None, rng: random.Random) -> Sifted:
    """Sort claimed interactions into lessons and reasons.

    Args:
        claimed: what the job holds.
        rules: see `Rules`.
        heldout: questions nobody learns from, if there are any.
        rng: decides which surplus of a key stays out.

    """
    charged = charge(claimed)
    lessons: list[Lesson] = []
    skipped: dict[UUID, Reason] = {}
    for one in claimed:
        read = examine(one, rules, heldout)
        if isinstance(read, Rollout):
            lessons.append(lesson(one, read, charged[one.interaction.id]))
        else:
            skipped[one.interaction.id] = read
    keys = [one.key for one in lessons]
    kept, surplus = cut(lessons, keys, [one.graded.group for one in lessons], rules.key_share, rng)
    skipped |= {one.interaction_id: "key_cap" for one in surplus}
    return Sifted(kept, skipped)


def examine(one: Claimed, rules: Rules, heldout: EvaluationSet | None) -> Rollout | Reason:
    """Read one rollout, or say why it is not learned from."""
    try:
        rollout = decode(one.payload)
    except ValueError:
        return "unreadable"
    asks_held_out = heldout is not None and heldout.holds(one.interaction.request, rollout.prompt_ids_P.tolist())
    findings: dict[Reason, bool] = {
        "held_out": asks_held_out,
        "rolled_back": rollout.policy_version > rules.serving_version,
        "altered": rollout.altered,
        "empty": rollout.latent_length + rollout.answer_length == 0,
        "reward_out_of_range": rules.baseline == "tracker" and not 0.0 <= one.reward.value <= 1.0,
    }
    return next((reason for reason, found in findings.items() if found), rollout)


def lesson(one: Claimed, rollout: Rollout, key: str) -> Lesson:
    """Put together what the baselines need to know."""
    row = one.interaction
    graded = Graded(
        reward=one.reward.value, group=row.completion_id, policy_version=row.policy_version, key=tracker_key(one)
    )
    return Lesson(row.id, key, graded, rollout)


def tracker_key(one: Claimed) -> str:
    """Name what a value is tracked for: who asks, for what task (`metadata.task`), judged by what.

    Never the prompt, which rarely comes twice.
    """
    row = one.interaction
    task = str((row.client_metadata or {}).get("task", ""))
    judge = "client" if one.grader_keys or row.grader is None else str(row.grader.get("type", ""))
    return "/".join((row.api_key_id or NO_KEY, task[:100], judge))


def charge(claimed: Iterable[Claimed]) -> dict[UUID, str]:
    """Name the API key that each interaction counts for: the grader's, since a grade is what poisons; else the asker's.

    Where several keys graded one answer it counts for the one that graded most of them, so that a flood cannot hide
    behind an answer somebody else graded too.
    """
    found = list(claimed)
    counts = Counter(key for one in found for key in one.grader_keys)
    return {
        one.interaction.id: max(
            one.grader_keys or {one.interaction.api_key_id or NO_KEY}, key=lambda key: (counts[key], key)
        )
        for one in found
    }
