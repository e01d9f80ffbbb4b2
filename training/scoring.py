"""Log-probabilities of chosen ids over the whole vocabulary, without ever holding [N, V].

Positions go through the head a chunk at a time. What a chunk makes of size [C, V] is dropped after the forward pass;
the backward pass reads the chunk's logits again and turns them, in place, into their own gradient. So the peak is one
chunk, whatever the batch, and the vocabulary is walked over as few times as the maths allows.
Knows positions only: which of them are latent steps or tokens is `training.replay`'s.

Axes: N positions, C positions of one chunk, K ids per position, D hidden size, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from training.allowed import Allowed
from training.models.head import CausalLM


class Scores(NamedTuple):
    """What the loss and the health checks need of each position."""

    logprobs_NK: Tensor  # float32 [N, K] (float64 for a float64 model), over the whole vocabulary; differentiable
    kl_N: Tensor  # float32 [N], exact KL(policy || reference) in nats, 0 without a reference; differentiable
    entropy_N: Tensor  # float32 [N], nats; no gradient


class Reader(NamedTuple):
    """A model with the hidden states its head is to read."""

    model: CausalLM
    hidden_ND: Tensor  # [N, D]

    def at(self, pick: slice) -> "Reader":
        """Return the same model with some of the positions."""
        return Reader(self.model, self.hidden_ND[pick])


def score(
    policy: Reader,
    ids_NK: Tensor,
    temperature_N: Tensor | None,
    chunk_elements: int,
    reference: Reader | None = None,
    allowed: Allowed | None = None,
) -> Scores:
    """Score `ids_NK` under softmax(logits / temperature), chunk by chunk.

    Args:
        policy: the model that learns; gradients reach its hidden states and its head.
        ids_NK: int64 [N, K].
        temperature_N: float32 [N], > 0; None: 1 everywhere.
        chunk_elements: largest C * V, > 0; a chunk is at least one position.
        reference: a frozen model that read the same positions, for the KL.
        allowed: which ids each position could draw: both models' probability is all on those; None: any.

    """
    total, wide = len(ids_NK), _wide(policy.hidden_ND.dtype)
    scale_N = None if temperature_N is None else temperature_N.to(wide).reciprocal()
    rows = max(1, chunk_elements // policy.model.vocabulary)
    parts: list[Scores] = []
    for start in range(0, total, rows):
        pick = slice(start, start + rows)
        frozen = None if reference is None else reference.at(pick)
        scale_C = None if scale_N is None else scale_N[pick]
        hidden_CD = policy.hidden_ND[pick]
        raw_CV = policy.model.output_layer(hidden_CD)
        again = Reader(policy.model, hidden_CD.detach()) if total > rows else None
        masks = None if allowed is None else allowed.at(pick)
        chunk = _Chunk(policy.model, again, ids_NK[pick], scale_C, frozen, masks)
        parts.append(Scores(*cast("Any", _ReadOut).apply(raw_CV, chunk)))
    if not parts:
        nothing = policy.hidden_ND.new_zeros(0, dtype=wide)
        return Scores(nothing.new_zeros(ids_NK.shape), nothing, nothing)
    return Scores(*(torch.cat(column) for column in zip(*parts, strict=True)))


@dataclass(frozen=True, slots=True, eq=False)
class _Chunk:
    """What is read out of one chunk, and how to get at its logits a second time."""

    model: CausalLM
    again: Reader | None  # reads the logits once more in the backward pass; None: they are kept, there is one chunk
    ids_CK: Tensor  # int64 [C, K]
    scale_C: Tensor | None  # float32 [C] (float64 for a float64 model), 1 / temperature
    reference: Reader | None
    allowed: Allowed | None  # which ids could be drawn; None: any

    def scaled(self, logits_CV: Tensor) -> Tensor:
        """Logits in float32 (float64 stays), divided by the temperature; the input itself where nothing is to do.

        What could not be drawn is out of reach, and has no gradient.
        """
        wide_CV = logits_CV.to(_wide(logits_CV.dtype))
        scaled_CV = wide_CV if self.scale_C is None else wide_CV * self.scale_C[:, None]
        return scaled_CV if self.allowed is None else self.allowed.apply(scaled_CV)

    def reference_logprobs(self) -> Tensor | None:
        """Log-distribution of the reference, [C, V]."""
        if self.reference is None:
            return None
        return self.scaled(self.reference.model.logits(self.reference.hidden_ND)).log_softmax(-1)


class _ReadOut(torch.autograd.Function):
    """Raw logits of the output layer [C, V] to log-probabilities [C, K], KL [C] and entropy [C].

    With p = softmax(x) at the scaled logits x: d log p(k) / dx = onehot(k) - p, and
    d KL / dx = p (log p - log q - KL), where q is the reference's distribution.
    """

    @staticmethod
    def forward(ctx: Any, raw_CV: Tensor, chunk: _Chunk) -> tuple[Tensor, Tensor, Tensor]:
        x_CV = chunk.scaled(chunk.model.finished(raw_CV))
        top_C1 = x_CV.amax(-1, keepdim=True)
        p_CV = (x_CV - top_C1).exp_()
        mass_C = p_CV.sum(-1)
        whole_C = mass_C.log() + top_C1.squeeze(-1)
        logprobs_CK = x_CV.gather(1, chunk.ids_CK) - whole_C[:, None]
        entropy_C = whole_C - torch.linalg.vecdot(p_CV, x_CV) / mass_C
        reference_CV = chunk.reference_logprobs()
        kl_C = torch.zeros_like(whole_C)
        if reference_CV is not None:
            kl_C = -entropy_C - torch.linalg.vecdot(p_CV, reference_CV) / mass_C
        ctx.chunk = chunk
        ctx.save_for_backward(whole_C, kl_C, *([raw_CV] if chunk.again is None else []))
        ctx.mark_non_differentiable(entropy_C)
        return logprobs_CK, kl_C, entropy_C

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        from_logprobs_CK, from_kl_C, _ = gradients
        chunk: _Chunk = ctx.chunk
        whole_C, kl_C, *kept = ctx.saved_tensors
        raw_CV = kept[0] if chunk.again is None else chunk.again.model.output_layer(chunk.again.hidden_ND)
        logp_CV = chunk.scaled(chunk.model.finished(raw_CV)) - whole_C[:, None]
        reference_CV = chunk.reference_logprobs()
        pull_C1 = from_logprobs_CK.sum(-1, keepdim=True).neg_()
        if reference_CV is None:
            grad_CV = logp_CV.exp_().mul_(pull_C1)
        else:
            apart_CV = reference_CV.neg_().add_(logp_CV).sub_(kl_C[:, None])
            grad_CV = logp_CV.exp_().mul_(apart_CV.mul_(from_kl_C[:, None]).add_(pull_C1))
        grad_CV.scatter_add_(1, chunk.ids_CK, from_logprobs_CK)
        if chunk.scale_C is not None:
            grad_CV.mul_(chunk.scale_C[:, None])
        return chunk.model.finished_backward(raw_CV, grad_CV.to(raw_CV.dtype)), None


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
