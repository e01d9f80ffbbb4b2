"""Corrected answers as the learner takes them: the right words, a hint for the teacher, the thoughts they follow.

The hint is worded by a setting and goes through the model's own chat template, into the last thing that the user said;
the tools that could be called and what they gave back are told as they were.

The latent steps of a wrong answer led there. Taught after them, the right words teach the policy to say what it did not
think: measured on the demo's model, that made it worse (docs/decisions/corrections.md). So every corrected prompt is
thought through anew a few times, and the correction is taught after the steps that make it likeliest, those of the
answer that was given among them.

A correction that was learned from becomes a question of the gate. Leaves out who corrected what (`app.store.grades`)
and how a correction teaches (`training.distill`).
"""

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any
from uuid import UUID

import torch
from sqlalchemy.orm import Session
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from app.chat.recorded import recorded
from app.chat.template import ChatTemplate
from app.engine.request import Finished, Request
from app.held_out_lines import texts_of
from app.settings import Settings
from app.store import lineage
from app.store.claims import Claimed
from training.distill import Correction, corrected, likelihoods
from training.graders.parse import parse_grader
from training.memory.footprint import MOST_POSITIONS
from training.models.head import take_apart
from training.models.policy import Policy
from training.rollout import Rollout
from worker.gate.evaluation_set import Question
from worker.resample import MOST_SEED, answered

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Thoughts:
    """Corrections, each after the latent steps it is taught after."""

    corrections: dict[UUID, Correction]
    drawn: int  # times that a prompt was thought through anew
    nats_given: float  # mean log-probability of a correction's tokens after the steps of the answer that was given
    nats_chosen: float  # the same after those that were chosen, nats per token


def corrections_of(
    claimed: Sequence[Claimed], rollouts: Mapping[UUID, Rollout], policy: Policy, settings: Settings
) -> dict[UUID, Correction]:
    """Make a correction of every claimed answer that somebody corrected; none where LEPO_CORRECTION_WEIGHT is 0.

    Args:
        claimed: what the job holds.
        rollouts: answer -> its rollout, of those that can be replayed.
        policy: gives the tokenizer.
        settings: how a hint is worded, and how long an answer may be.

    """
    if not settings.correction_weight:
        return {}
    found: dict[UUID, Correction] = {}
    template = ChatTemplate(policy.tokenizer, settings.tool_parser)
    for one in claimed:
        rollout = rollouts.get(one.interaction.id)
        if one.correction is None or rollout is None:
            continue
        answer_T = answer_ids(one.correction, policy)
        if rollout.begin + len(answer_T) > settings.max_length:
            log.warning("a correction of %d tokens is longer than an answer may be; it is left out", len(answer_T))
            continue
        hinted_H = hinted_ids(one.interaction.request, one.correction, template, settings)
        if hinted_H is not None:
            hinted_H = torch.cat([hinted_H, rollout.prompt_ids_P[len(rollout.asked_ids_P) :]])
            more = len(hinted_H) - len(rollout.prompt_ids_P)
            if more + rollout.begin + len(answer_T) > settings.max_length:
                hinted_H = None
        found[one.interaction.id] = corrected(rollout, answer_T, hinted_H)
    return found


def answer_ids(correction: str, policy: Policy) -> Tensor:
    """Write a correction as the policy would have to: its tokens, then the end; int32 [T]."""
    end = policy.tokenizer.eos_token_id
    ids = policy.tokenizer.encode(correction, add_special_tokens=False)
    last = end if end in policy.eos_ids else min(policy.eos_ids, default=None)
    return torch.tensor([*ids, *([] if last is None else [last])], dtype=torch.int32)


def hinted_ids(
    request: Mapping[str, Any], correction: str, template: ChatTemplate, settings: Settings
) -> Tensor | None:
    """Ask the same with the correction as a hint, int32 [H]; None where the request has no place for one."""
    prompt: Any = request.get("prompt")
    if isinstance(prompt, str):
        return _tensor(template.tokenizer.encode(_worded(prompt, correction, settings)))
    asked = recorded(request)
    place = asked.last_said()
    if place is None or not template.tokenizer.chat_template:
        return None
    hinted = asked.saying(place, _worded(asked.messages[place]["content"], correction, settings))
    try:
        return _tensor(hinted.render(template))
    except ValueError as error:  # as asked it was rendered; a template may refuse what is longer
        log.warning("a correction cannot be shown as a hint: %s", error)
        return None


def _worded(prompt: str, correction: str, settings: Settings) -> str:
    return settings.correction_hint.replace("{prompt}", prompt).replace("{correction}", correction)


def _tensor(ids: Sequence[int]) -> Tensor:
    return torch.tensor(ids, dtype=torch.int32)


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
    fresh = drawn_anew([corrections[one] for one in thinking], policy, settings, rng, check)
    pools = [
        [corrections[one], *(taught_after(corrections[one], answer) for answer in answers)]
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


def drawn_anew(
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


def taught_after(correction: Correction, answer: Finished) -> Correction:
    """Put a correction after the latent steps of another answer to its prompt."""
    other = corrected(answer.rollout, correction.rollout.token_ids_T, correction.hinted_ids_H)
    return replace(correction, rollout=other.rollout)


def regressions(session: Session, limit: int, tokenizer: PreTrainedTokenizerBase) -> list[Question]:
    """Ask again what was corrected and learned from; graded as the request said, else by the correction's words."""
    found = []
    for asked, correction in lineage.learned_corrections(session, limit):
        spec = asked.grader or {"type": "string_check", "operation": "eq", "reference": correction}
        try:
            parse_grader(spec)
        except ValueError as error:  # too long a text, or a grader that this version does not know
            log.warning("a past correction cannot be graded and is not asked again: %s", error)
            continue
        ids = tokenizer.encode(asked.prompt_text, add_special_tokens=asked.endpoint == "completion")
        said = texts_of(asked.request)
        if ids and said:
            found.append(Question(said[-1], tuple(ids), spec))
    return found
