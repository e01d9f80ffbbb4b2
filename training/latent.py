"""The latent step of LEPO (arXiv:2604.17892, section 3): one noise, two readouts.

`support` filters the logits into the sampling distribution, `perturb` adds the Gumbel noise, and the perturbed scores
are read out twice: as a mixture of embeddings (`mixture_weights`, `mix`) and as a token (`chosen`). Because the filter
comes before the noise, the K kept ids and weights are the whole sample: nothing of size V is mixed.

The mathematics and nothing else. Leaves out settings (`training.sampling`), noise (`training.noise`) and a step of many
answers at once (`training.draw`), which the engine and the replay both take: there is no second copy.

Axes: B rows, V vocabulary, K candidates (fixed width, sorted by probability), D hidden size.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from training.candidates import top_candidates
from training.controls import Controls

NEG_INF = float("-inf")


class Support(NamedTuple):
    """The sampling distribution pi~ of each row, and what the filter hid."""

    ids_BK: Tensor  # int64 [B, K], candidates by falling probability
    logprobs_BK: Tensor  # float32 [B, K], log pi~; -inf outside the support
    full_BK: Tensor  # float32 [B, K], log-probabilities over the whole vocabulary at the temperature
    log_mass_B1: Tensor  # float32 [B, 1], log of the full-vocabulary probability that the support holds

    @property
    def size_B(self) -> Tensor:
        """How many candidates are in the support, int64 [B], >= 1."""
        return (self.logprobs_BK > NEG_INF).sum(-1)


@torch.no_grad()
def support(logits_BV: Tensor, controls: Controls, width: int) -> Support:
    """Temperature, then top-k, then nucleus top-p and min-p, renormalised over what is kept.

    A candidate stays while the probability before it (under the top-k distribution) is below top-p, so the first one
    always stays; min-p drops those of them that are less likely than its share of the first. Temperature 0 keeps the
    first one alone, with log-probabilities taken at temperature 1. Nothing is learned through the filter: gradients
    come from the replay.

    Args:
        logits_BV: [B, V], any float dtype; the work is done in float32 (float64 stays).
        controls: per-row settings; a row's `top_k` beyond `width` is cut to it.
        width: K.

    """
    logits_BV = logits_BV if logits_BV.dtype == torch.float64 else logits_BV.float()
    ids_BK = top_candidates(logits_BV, width)
    scaled_BV = logits_BV * controls.scale_B1
    kept_BK = scaled_BV.gather(1, ids_BK)
    full_BK = torch.log_softmax(scaled_BV, -1, out=scaled_BV).gather(1, ids_BK)  # in place: fresh pages cost more
    rank_K = torch.arange(ids_BK.shape[1], device=ids_BK.device)
    kept_BK.masked_fill_(rank_K >= controls.top_k_B1, NEG_INF)
    top_k_BK = kept_BK.softmax(-1)
    before_BK = top_k_BK.cumsum(-1).sub_(top_k_BK)
    dropped_BK = (before_BK >= controls.nucleus_B1) | (kept_BK < kept_BK[:, :1] + controls.floor_B1)
    logprobs_BK = kept_BK.masked_fill_(dropped_BK, NEG_INF).log_softmax(-1)
    return Support(ids_BK, logprobs_BK, full_BK, full_BK[:, :1] - logprobs_BK[:, :1])


def perturb(support_: Support, noise_BK: Tensor) -> Tensor:
    """Perturbed scores y = log pi~ + g; -inf outside the support (section 1.2 of the paper's sampling).

    Returns:
        [B, K].

    """
    return support_.logprobs_BK + noise_BK


def mixture_weights(scores_BK: Tensor, tau_B1: Tensor) -> Tensor:
    """Latent readout z = softmax(y / tau): a Gumbel-softmax sample (Jang et al., arXiv:1611.01144).

    Returns:
        [B, K], rows sum to 1; tau -> 0 makes it one-hot at the token the same noise draws.

    """
    return (scores_BK / tau_B1).softmax(-1)


def chosen(scores_BK: Tensor) -> Tensor:
    """Token readout: argmax of the perturbed scores, an exact draw from pi~ (the Gumbel-max trick).

    Returns:
        int64 [B, 1], an index into K.

    """
    return scores_BK.argmax(-1, keepdim=True)


def mix(embedding: nn.Module, ids_BK: Tensor, weights_BK: Tensor) -> Tensor:
    """Mixture of K embedding rows per latent step, summed in float32.

    Args:
        embedding: the model's input embedding; its own scaling, if any, applies to each row.
        ids_BK: int64 [..., K].
        weights_BK: float [..., K].

    Returns:
        [..., D] in the embedding's dtype.

    """
    rows_BKD: Tensor = embedding(ids_BK)
    wide = torch.promote_types(rows_BKD.dtype, weights_BK.dtype)
    mixed_BD = (weights_BK.to(wide)[..., None, :] @ rows_BKD.to(wide)).squeeze(-2)
    return mixed_BD.to(rows_BKD.dtype)
