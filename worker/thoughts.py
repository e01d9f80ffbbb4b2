"""After which thoughts a correction is taught: of the policy's own, those that lead to it.

The latent steps of a wrong answer led there. Taught after them, the right words teach the policy to say what it did not
think: measured on the demo's model, that made it worse (docs/decisions/corrections.md). So every corrected prompt is
thought through anew a few times, and the correction is taught after the steps that make it likeliest, those of the
answer that was given among them. Leaves out how it is taught (`training.distill`).
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from uuid import UUID

from app.engine.request import Finished, Request
from app.settings import Settings
from training.distill import Correction, corrected, likelihoods
from training.footprint import MOST_POSITIONS
from training.head import take_apart
from training.policy import Policy
from worker.resample import MOST_SEED, answered


@dataclass(frozen=True, slots=True, eq=False)
class Thoughts:
    """Corrections, each after the latent steps it is taught after."""

    corrections: dict[UUID, Correction]
    drawn: int  # times that a prompt was thought through anew
    nats_given: float  # mean log-probability of a correction's tokens after the steps of the answer that was given
    nats_chosen: float  # the same after those that were chosen, nats per token


def think_anew(
    corrections: Mapping[UUID, Correction],
    policy: Policy,
    settings: Settings,
    rng: random.Random,
    check: Callable[[], None],
) -> Thoughts:
    """Choose for every correction the latent steps it is taught after.

    Args:
        corrections: answer -> its correction, after the steps as executed.
        policy: the policy that learns, as it is now.
        settings: LEPO_CORRECTION_DRAWS, and the engine's.
        rng: gives seeds.
        check: called between steps of the engine; what it raises ends the choosing.

    """
    thinking = [one for one, correction in corrections.items() if correction.given.latent_length]
    if not thinking or not settings.correction_draws:
        return Thoughts(dict(corrections), 0, 0.0, 0.0)
    fresh = drawn([corrections[one] for one in thinking], policy, settings, rng, check)
    pools = [
        [corrections[one], *(after(corrections[one], answer) for answer in answers)]
        for one, answers in zip(thinking, fresh, strict=True)
    ]
    check()
    positions = settings.micro_batch_tokens or MOST_POSITIONS  # without gradients they take little
    flat = likelihoods(take_apart(policy.model), [one for pool in pools for one in pool], positions)
    chosen, given, best, start = dict(corrections), [], [], 0
    for one, pool in zip(thinking, pools, strict=True):
        nats = flat[start : start + len(pool)]
        start += len(pool)
        place = max(range(len(pool)), key=nats.__getitem__)
        chosen[one] = pool[place]
        given.append(nats[0])
        best.append(nats[place])
    return Thoughts(chosen, sum(map(len, fresh)), fmean(given), fmean(best))


def drawn(
    corrections: Sequence[Correction],
    policy: Policy,
    settings: Settings,
    rng: random.Random,
    check: Callable[[], None],
) -> list[list[Finished]]:
    """Think every prompt through LEPO_CORRECTION_DRAWS times, as it was asked, with other seeds."""
    requests = []
    for one in corrections:
        asked = one.given.sampling
        sampling = replace(asked, seed=rng.randrange(MOST_SEED), temperature=asked.temperature or 1.0)
        requests.append(
            Request(
                prompt_ids=tuple(one.given.asked_ids_P.tolist()),
                sampling=sampling,
                max_new=sampling.latent_length + 1,
                choices=settings.correction_draws,
                placement=one.given.placed,
            )
        )
    return answered(requests, policy, settings, check)


def after(correction: Correction, answer: Finished) -> Correction:
    """Put a correction after the latent steps of another answer to its prompt."""
    other = corrected(answer.rollout, correction.rollout.token_ids_T, correction.hinted_ids_H)
    return replace(correction, rollout=other.rollout)
