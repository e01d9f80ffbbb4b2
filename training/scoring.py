"""Log-probabilities of chosen ids over the whole vocabulary, without ever holding [N, V].

Positions go through the head a chunk at a time. What a chunk makes of size [C, V] (logits, their float32 softmax) is
dropped after the forward pass and made again in the backward pass, so the peak is one chunk, whatever the batch.
Knows positions only: which of them are latent steps or tokens is `training.replay`'s.

Axes: N positions, C positions of one chunk, K ids per position, D hidden size, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from training.head import CausalLM


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
    policy: Reader, ids_NK: Tensor, scale_N: Tensor, chunk_elements: int, reference: Reader | None = None
) -> Scores:
    """Score `ids_NK` under softmax(logits * scale), chunk by chunk.

    Args:
        policy: the model that learns; gradients reach its hidden states and its head.
        ids_NK: int64 [N, K].
        scale_N: float32 [N], 1 / temperature.
        chunk_elements: largest C * V, > 0; a chunk is at least one position.
        reference: a frozen model that read the same positions, for the KL.

    """
    total, vocab = ids_NK.shape[0], policy.model.vocabulary
    rows = max(1, chunk_elements // vocab)
    recompute = torch.is_grad_enabled() and total > rows
    parts: list[Scores] = []
    for start in range(0, total, rows):
        pick = slice(start, start + rows)
        frozen = None if reference is None else reference.at(pick)
        arguments = (policy.at(pick), ids_NK[pick], scale_N[pick], frozen)
        if recompute:
            parts.append(checkpoint(_score_chunk, *arguments, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(_score_chunk(*arguments))
    if not parts:
        nothing = policy.hidden_ND.new_zeros(0, dtype=_wide(policy.hidden_ND.dtype))
        return Scores(nothing.new_zeros(ids_NK.shape), nothing, nothing)
    return Scores(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _score_chunk(policy: Reader, ids_CK: Tensor, scale_C: Tensor, reference: Reader | None) -> Scores:
    """One chunk. The entropy comes last: a recomputation for the backward pass stops before it."""
    scaled_CV = _scaled(policy, scale_C)
    whole_C = scaled_CV.logsumexp(-1)
    logprobs_CK = scaled_CV.gather(1, ids_CK) - whole_C[:, None]
    kl_C = torch.zeros_like(whole_C)
    if reference is not None:
        with torch.no_grad():
            reference_CV = _scaled(reference, scale_C).log_softmax(-1)
        kl_C = _exact_kl(scaled_CV - whole_C[:, None], reference_CV)
    with torch.no_grad():
        entropy_C = torch.special.entr((scaled_CV - whole_C[:, None]).exp_()).sum(-1)
    return Scores(logprobs_CK, kl_C, entropy_C)


def _scaled(reader: Reader, scale_C: Tensor) -> Tensor:
    """Logits in float32 (float64 stays), divided by the temperature."""
    logits_CV = reader.model.logits(reader.hidden_ND)
    return logits_CV.to(_wide(logits_CV.dtype)) * scale_C[:, None]


def _exact_kl(logprobs_CV: Tensor, reference_CV: Tensor) -> Tensor:
    """KL(policy || reference) over the whole vocabulary: sum_v p (log p - log q)."""
    return (logprobs_CV.exp() * (logprobs_CV - reference_CV)).sum(-1)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
