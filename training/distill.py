"""Learning from a correction: the policy is shown the answer it should have given, and taught to give it unshown.

Who corrects an answer says more than a number. The policy is conditioned on the correction (a hint in its prompt), and
what it then gives each token of the corrected answer is distilled into the same policy without the hint, on the same
prompt and the same executed latent steps (self-distillation from text feedback: SDFT, arXiv:2601.19897; SDPO,
arXiv:2601.20802). A policy that cannot use a hint teaches nothing that way; whether it can is measured on every
correction, by how much likelier the hint makes it. Where it does not, the target is the correction itself.

    target = (1 - trust) * onehot(token) + trust * pi(. | hint)     trust: as configured if the hint helped, else 0
    loss   = mean over corrections of the mean over tokens of  -sum_k target_k log pi_theta(k | no hint)

Leaves out rewards (`training.objective`) and how a correction is worded as a hint (the caller).

Axes: T answer tokens, K candidates of a target, H hinted prompt tokens, N tokens of all corrections in a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from training.executed import Executed, collate
from training.models.head import CausalLM
from training.optimization.batches import micro_batches
from training.rollout import Rollout, no_masks, nothing
from training.scoring import Reader, score
from training.shared_prompts import executed_length

_ROWS = 256  # positions whose whole distribution exists at once


@dataclass(frozen=True, slots=True)
class DistillConfig:
    """How corrections are learned from.

    Example: `DistillConfig(weight=1.0, trust=0.5)`.

    Raises:
        ValueError: a value is out of its range; the message names the field.

    """

    weight: float = 1.0  # of the term beside the reward's, >= 0
    trust: float = 0.5  # share of a target that the hinted policy gives, where the hint helped, in [0, 1]
    candidates: int = 30  # of the hinted policy's distribution that are kept, >= 1

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"weight must be 0 or more, got {self.weight}")
        if not 0 <= self.trust <= 1:
            raise ValueError(f"trust must be in [0, 1], got {self.trust}")
        if self.candidates < 1:
            raise ValueError(f"candidates must be 1 or more, got {self.candidates}")


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """An answer that should have been given, after the prompt and the latent steps of one that was."""

    given: Rollout  # the answer that was given
    rollout: Rollout  # its prompt and latent steps as executed, and the correction's tokens with nothing recorded
    hinted_ids_H: Tensor | None  # int32 [H], the prompt with the correction as a hint; None: no way to hint


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What each token of a correction is to become."""

    ids_TK: Tensor  # int64 [T, K], the token itself first
    weights_TK: Tensor  # float32 [T, K], rows sum to at most 1
    gain: float  # nats per token by which the hint made the correction likelier; 0 without a hint


@dataclass(frozen=True, slots=True)
class DistillReport:
    """What was learned from corrections."""

    corrections: int
    loss: float  # cross-entropy to the targets, nats per token, before the step; 0 without corrections
    hint_gain: float  # nats per token, mean over those that had a hint; 0 if none had
    hints_that_helped: int


def corrected(rollout: Rollout, answer_ids_T: Tensor, hinted_ids_H: Tensor | None) -> Correction:
    """Put a corrected answer in the place of the one that was given.

    Args:
        rollout: the answer that was given.
        answer_ids_T: int32 [T], T >= 1, the correction as tokens, its ending token included.
        hinted_ids_H: int32 [H], the prompt with the correction as a hint, if there is a way to hint.

    Raises:
        ValueError: a correction without tokens.

    """
    if not len(answer_ids_T):
        raise ValueError("a correction needs at least one token")
    nothing_T = torch.full((len(answer_ids_T),), float("nan"), dtype=torch.float32)
    sampling = replace(rollout.sampling, temperature=1.0)
    shown = replace(
        rollout,
        token_ids_T=answer_ids_T.to(torch.int32),
        token_logprobs_T=nothing_T,
        token_log_mass_T=torch.zeros_like(nothing_T),
        sampling=sampling,
        stop_reason="stop",
        masks_MQ=no_masks(),  # they were of the answer that was given
        mask_S=nothing(),
    )
    return Correction(rollout, shown, None if hinted_ids_H is None else hinted_ids_H.to(torch.int32))


@torch.no_grad()
def targets(model: CausalLM, corrections: Sequence[Correction], config: DistillConfig, positions: int) -> list[Target]:
    """Find what each correction's tokens are to become, by the policy as it is now.

    Args:
        model: the policy, in eval mode.
        corrections: any number.
        config: see `DistillConfig`.
        positions: padded positions per forward, > 0.

    """
    found: dict[int, Target] = {
        index: Target(one.rollout.token_ids_T.long()[:, None], torch.ones(one.rollout.answer_length, 1), 0.0)
        for index, one in enumerate(corrections)
    }
    hinted = {
        index: replace(one.rollout, prompt_ids_P=one.hinted_ids_H)
        for index, one in enumerate(corrections)
        if one.hinted_ids_H is not None and config.trust > 0
    }
    places = list(hinted)
    for bucket in micro_batches([executed_length(hinted[place]) for place in places], positions):
        chosen = [places[index] for index in bucket]
        before_N, _, _ = _logprobs(model, [corrections[place].rollout for place in chosen])
        unshown = _per_rollout(before_N, corrections, chosen)
        batch = [hinted[place] for place in chosen]
        told_N, wide_NK, ids_NK = _logprobs(model, batch, config.candidates)
        for place, told_T, before_T, top_TK, ids_TK in zip(
            chosen,
            _per_rollout(told_N, corrections, chosen),
            unshown,
            _per_rollout(wide_NK, corrections, chosen),
            _per_rollout(ids_NK, corrections, chosen),
            strict=True,
        ):
            gain = float((told_T - before_T).double().mean())
            found[place] = _mixed(found[place], top_TK, ids_TK, config.trust if gain > 0 else 0.0, gain)
    return [found[index] for index in range(len(corrections))]


@torch.no_grad()
def likelihoods(model: CausalLM, corrections: Sequence[Correction], positions: int) -> list[float]:
    """Mean log-probability of each correction's tokens after its latent steps, nats per token.

    Args:
        model: the policy, in eval mode.
        corrections: any number.
        positions: padded positions per forward, > 0.

    """
    found: dict[int, float] = {}
    for bucket in micro_batches([executed_length(one.rollout) for one in corrections], positions):
        logprobs_N, _, _ = _logprobs(model, [corrections[place].rollout for place in bucket])
        per_rollout = _per_rollout(logprobs_N, corrections, bucket)
        found |= {place: float(one_T.double().mean()) for place, one_T in zip(bucket, per_rollout, strict=True)}
    return [found[place] for place in range(len(corrections))]


def distill(model: CausalLM, corrections: Sequence[Correction], aims: Sequence[Target], chunk_elements: int) -> Tensor:
    """Return the sum over corrections of their mean cross-entropy to the targets, nats per token, differentiable.

    Args:
        model: the policy that learns, in eval mode.
        corrections: at least one; they go through the model together.
        aims: one per correction, from `targets`.
        chunk_elements: largest float32 [C, V] that exists at once.

    """
    batch = collate([one.rollout for one in corrections], model.device)
    hidden_ND = _hidden(model, batch)[batch.tokens.row_N, batch.tokens.predictor_N]
    width = max(aim.ids_TK.shape[1] for aim in aims)
    ids_NK = torch.cat([_wide(aim.ids_TK, width) for aim in aims]).to(model.device)
    weights_NK = torch.cat([_wide(aim.weights_TK, width) for aim in aims]).to(model.device)
    per_token_N = torch.cat([torch.full((len(aim.ids_TK),), 1.0 / len(aim.ids_TK)) for aim in aims]).to(model.device)
    logprobs_NK = score(Reader(model, hidden_ND), ids_NK, None, chunk_elements).logprobs_NK
    loss: Tensor = -(per_token_N[:, None] * weights_NK * logprobs_NK).sum()
    return loss


def report(aims: Sequence[Target], loss: float) -> DistillReport:
    """Say what was learned from corrections; `loss` is the mean over them."""
    gains = [aim.gain for aim in aims if aim.gain != 0.0]
    return DistillReport(
        corrections=len(aims),
        loss=loss,
        hint_gain=sum(gains) / len(gains) if gains else 0.0,
        hints_that_helped=sum(gain > 0 for gain in gains),
    )


def _hidden(model: CausalLM, batch: Executed) -> Tensor:
    with torch.no_grad():
        inputs_BSD = batch.inputs(model.embedding)
    return model.hidden(inputs_BSD)


def _logprobs(model: CausalLM, rollouts: Sequence[Rollout], candidates: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability of each token [N], and those of the likeliest candidates with their ids, both [N, K]."""
    batch = collate(rollouts, model.device)
    hidden_ND = _hidden(model, batch)[batch.tokens.row_N, batch.tokens.predictor_N]
    told, top, ids = [], [], []
    for start in range(0, len(hidden_ND), _ROWS):
        pick = slice(start, start + _ROWS)
        logprobs_CV = model.logits(hidden_ND[pick]).float().log_softmax(-1)
        told.append(logprobs_CV.gather(1, batch.tokens.ids_NK[pick]).squeeze(1))
        best = logprobs_CV.topk(min(candidates, logprobs_CV.shape[-1]), dim=-1)
        top.append(best.values)
        ids.append(best.indices)
    return torch.cat(told), torch.cat(top), torch.cat(ids)


def _per_rollout(values: Tensor, corrections: Sequence[Correction], chosen: Sequence[int]) -> tuple[Tensor, ...]:
    """Cut [N, ...] into the parts of each chosen correction."""
    sizes = [corrections[place].rollout.answer_length for place in chosen]
    return tuple(
        values.cpu()[start : start + size] for start, size in zip(accumulate(sizes, initial=0), sizes, strict=False)
    )


def _mixed(plain: Target, logprobs_TK: Tensor, ids_TK: Tensor, trust: float, gain: float) -> Target:
    """Mix the correction's own tokens with what the hinted policy gives, renormalised over its candidates."""
    if trust == 0.0:
        return Target(plain.ids_TK, plain.weights_TK, gain)
    weights_TK = trust * logprobs_TK.softmax(-1)
    return Target(
        torch.cat([plain.ids_TK, ids_TK], dim=1), torch.cat([(1.0 - trust) * plain.weights_TK, weights_TK], dim=1), gain
    )


def _wide(values_TK: Tensor, width: int) -> Tensor:
    """Fill up with zeros to a width."""
    return torch.nn.functional.pad(values_TK, (0, width - values_TK.shape[1]))
