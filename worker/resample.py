"""Resampling: for a lone answer whose request named a grader, the policy that is to learn answers anew, G times.

One grade says little without an expectation, and the honest expectation is what the policy does with the same prompt:
GRPO's group, drawn here and now under one version. The first answer is what made the prompt known; it is left out,
being of another time or version. Leaves out which samples there are (`worker.samples`) and baselines (`worker.batch`).

Axes: G answers to one prompt.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.engine.request import Finished, Request
from app.settings import Settings
from app.store.claims import Claimed
from training.advantage import Graded
from training.graders.grader import Grader
from training.graders.parse import parse_grader
from training.graders.verdict import Graded as Mark
from training.models.policy import Policy
from training.rollout import Rollout
from worker.grade import counts
from worker.samples import Sample, within_shares

MOST_SEED = 2**62  # seeds are drawn below


@dataclass(frozen=True, slots=True, eq=False)
class Resampled:
    """Samples with fresh groups in the place of lone ones."""

    samples: list[Sample]
    waiting: list[UUID]  # interactions of which nothing is left within their key's share
    prompts: int  # answered anew
    answers: int  # drawn and graded for them


def resample(
    samples: Sequence[Sample],
    claimed: Sequence[Claimed],
    policy: Policy,
    settings: Settings,
    rng: random.Random,
    check: Callable[[], None],
) -> Resampled:
    """Draw a group for every lone sample with a grader, as many as an update may claim answers.

    A prompt of whose answers fewer than two get a grade keeps its first one: a grader that fails is never a zero.
    Every answer of a group counts for the key its first one counted for, and each key's share is held to once more.

    Args:
        samples: what may be learned from.
        claimed: the interactions behind them, for their graders.
        policy: the serving version, which draws.
        settings: `resample` answers each, `key_share`, and the limits of an answer.
        rng: decides seeds.
        check: called between answers, drawn or graded; what it raises ends the resampling.

    """
    graders = {one.interaction.id: usable_grader(one, settings) for one in claimed}
    sizes = Counter(one.graded.group for one in samples)
    lone = [one for one in samples if sizes[one.graded.group] == 1 and graders[one.interaction_id] is not None]
    lone = [one for one in lone if not one.of_episode]  # another answer would not have led to the same episode
    lone = [one for one in lone if room(one, settings) > 0 and not constrained(one.rollout)]
    lone = lone[: settings.max_grades // settings.resample]
    if not lone:
        return Resampled(list(samples), [], 0, 0)
    answers = drawn(lone, policy, settings, rng, check)
    groups: dict[UUID, list[Sample]] = {}
    for one, finished in zip(lone, answers, strict=True):
        grader = graders[one.interaction_id]
        assert grader is not None
        fresh = []
        for answer in finished:
            check()  # a grader may take its time
            if (new := marked(one, answer, grader, settings)) is not None:
                fresh.append(new)
        if len(fresh) > 1:
            groups[one.interaction_id] = fresh
    whole = [new for one in samples for new in groups.get(one.interaction_id, [one])]
    kept = within_shares(whole, settings.key_share)
    left = {one.interaction_id for one in kept}
    waiting = [one.interaction_id for one in samples if one.interaction_id not in left]
    return Resampled(kept, waiting, len(groups), sum(map(len, groups.values())))


def constrained(rollout: Rollout) -> bool:
    """Whether it kept to a constraint: it is not known here, and answers without it are no group of this one's."""
    return len(rollout.masks_MQ) > 0


def usable_grader(one: Claimed, settings: Settings) -> Grader | None:
    """Give the grader that a request named, where its grades make rewards."""
    return grader_of(one.interaction.grader) if counts(one.interaction.grader_source, settings) else None


def grader_of(spec: Mapping[str, Any] | None) -> Grader | None:
    """Read a grader; None where none was named, or this release does not know it."""
    try:
        return None if spec is None else parse_grader(spec)
    except ValueError:
        return None


def room(sample: Sample, settings: Settings) -> int:
    """Positions left for answer tokens after a sample's prompt and its latent steps."""
    return positions(sample, settings) - sample.rollout.sampling.latent_length


def positions(sample: Sample, settings: Settings) -> int:
    """Positions an answer to a sample's prompt may take."""
    taken = len(sample.rollout.prompt_ids_P) + len(sample.rollout.lead_out_ids_O)
    return min(settings.max_completion_tokens, settings.max_length - taken)


def drawn(
    lone: Sequence[Sample],
    policy: Policy,
    settings: Settings,
    rng: random.Random,
    check: Callable[[], None],
) -> list[list[Finished]]:
    """Answer every prompt G times as it was asked: the same latents, placement, tau and filters, other seeds."""
    requests = [
        Request(
            prompt_ids=tuple(one.rollout.asked_ids_P.tolist()),
            sampling=replace(one.rollout.sampling, seed=rng.randrange(MOST_SEED)),
            max_new=positions(one, settings),
            choices=settings.resample,
            placement=one.rollout.placed,
            goes_on=one.goes_on,
        )
        for one in lone
    ]
    return answered(requests, policy, settings, check)


def answered(
    requests: Sequence[Request], policy: Policy, settings: Settings, check: Callable[[], None]
) -> list[list[Finished]]:
    """Have the policy that learns answer requests, in an engine of its own; `check` is called between steps."""
    engine = Engine(policy, EngineConfig.from_settings(settings))
    try:
        return engine.generate(requests, lambda _: check())
    finally:
        engine.close(0.0)


def marked(first: Sample, answer: Finished, grader: Grader, settings: Settings) -> Sample | None:
    """Make a sample of a fresh answer; None without a grade, or where it was cut short and such answers are masked."""
    if settings.overlong == "mask" and answer.rollout.truncated:
        return None
    verdict = grader.grade(answer.text, settings.grader_timeout)
    if not isinstance(verdict, Mark):
        return None
    rollout = answer.rollout
    graded = Graded(verdict.value, first.graded.group, rollout.policy_version, first.graded.key)
    return Sample(first.interaction_id, first.key, graded, rollout, bundle=first.bundle)
