"""The latent step of LEPO (arXiv:2604.17892, section 3): one noise, two readouts.

`support` filters the logits into the sampling distribution, `perturb` adds the Gumbel noise, and the perturbed scores
are read out twice: as a mixture of embeddings (`mixture_weights`, `mix`) and as a token (`chosen`). The engine and
the replay both run these functions; there is no second copy. Leaves out when an answer ends.

Because the filter comes before the noise, the K kept ids and weights are the whole sample: nothing of size V is mixed.

Axes: B rows, V vocabulary, K candidates (fixed width, sorted by probability), D hidden size.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from training.noise import gumbel, stream
from training.sampling import Sampling

NEG_INF = float("-inf")
_TWO_STAGE_FROM = 4096  # below this vocabulary one plain top-k is quicker
_CHUNK, _LARGE_CHUNK = 32, 64  # logits per chunk of the two-stage top-k: both stages cost about the same
_LARGE = 65536  # vocabulary from which chunks are large
_MAX_TOP_K = 2**62  # what a tensor of 64-bit integers holds; a larger setting means the same


class Support(NamedTuple):
    """The sampling distribution pi~ of each row, and what the filter hid."""

    ids_BK: Tensor  # int64 [B, K], candidates by falling probability
    logprobs_BK: Tensor  # float32 [B, K], log pi~; -inf outside the support
    log_mass_B: Tensor  # float32 [B], log of the full-vocabulary probability that the support holds
    size_B: Tensor  # int64 [B], how many candidates are in the support, >= 1


class Controls(NamedTuple):
    """Per-row settings as tensors, one row per answer; see `training.sampling.Sampling` for ranges."""

    temperature_B: Tensor  # float32 [B]; 0 is greedy
    top_k_B: Tensor  # int64 [B]
    top_p_B: Tensor  # float32 [B]
    tau_B: Tensor  # float32 [B]
    stream_B: Tensor  # int64 [B] from `noise.stream`


class Drawn(NamedTuple):
    """One step of every row, both readouts."""

    ids_BK: Tensor  # int64 [B, K]
    weights_BK: Tensor  # float32 [B, K], z; rows sum to 1, 0 outside the support
    logprobs_BK: Tensor  # float32 [B, K], log pi~
    log_mass_B: Tensor  # float32 [B]
    choice_B: Tensor  # int64 [B], index into K of the mode of z, the drawn token
    token_B: Tensor  # int64 [B], its id
    token_logprob_B: Tensor  # float32 [B], log-probability of the token over the whole vocabulary at the temperature


def controls_for(samplings: Sequence[Sampling], device: torch.device) -> Controls:
    """Stack the settings of several answers as tensors on `device`, in their order."""
    return Controls(
        torch.tensor([one.temperature for one in samplings], dtype=torch.float32, device=device),
        torch.tensor([min(one.top_k, _MAX_TOP_K) for one in samplings], dtype=torch.int64, device=device),
        torch.tensor([one.top_p for one in samplings], dtype=torch.float32, device=device),
        torch.tensor([one.tau for one in samplings], dtype=torch.float32, device=device),
        stream(torch.tensor([one.seed for one in samplings], dtype=torch.int64, device=device)),
    )


def top_candidates(logits_BV: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Largest `width` logits of each row with their ids, sorted; of equal logits the lower id comes first.

    bfloat16 logits are full of ties, and a bare top-k breaks them by its own inner order: here the same row gives the
    same candidates at every width, on every device. A large vocabulary is searched in two stages: the first `width`
    chunks by (maximum, position) hold the first `width` logits by (value, id).

    Returns:
        logits [B, min(width, V)] and int64 ids of the same shape.

    """
    batch, vocab = logits_BV.shape
    chunk = _CHUNK if vocab < _LARGE else _LARGE_CHUNK
    if vocab < _TWO_STAGE_FROM or vocab <= 2 * chunk * width or logits_BV.dtype == torch.float64:
        ids_BV = torch.arange(vocab, device=logits_BV.device).expand(batch, -1)
        best_BK = _first(logits_BV, ids_BV, min(width, vocab))
        return logits_BV.gather(1, best_BK), best_BK
    whole = vocab - vocab % chunk
    chunks_BCc = logits_BV[:, :whole].view(batch, -1, chunk)
    number_BC = torch.arange(chunks_BCc.shape[1], device=logits_BV.device).expand(batch, -1)
    best_BW = _first(chunks_BCc.amax(-1), number_BC, width)
    pooled_BP = chunks_BCc.gather(1, best_BW[:, :, None].expand(-1, -1, chunk)).view(batch, -1)
    offset_c = torch.arange(chunk, device=logits_BV.device)
    pooled_ids_BP = (best_BW[:, :, None] * chunk + offset_c).view(batch, -1)
    if whole < vocab:
        rest_R = torch.arange(whole, vocab, device=logits_BV.device)
        pooled_BP = torch.cat([pooled_BP, logits_BV[:, whole:]], dim=-1)
        pooled_ids_BP = torch.cat([pooled_ids_BP, rest_R.expand(batch, -1)], dim=-1)
    best_BK = _first(pooled_BP, pooled_ids_BP, width)
    return pooled_BP.gather(1, best_BK), pooled_ids_BP.gather(1, best_BK)


def _first(values_BN: Tensor, ids_BN: Tensor, count: int) -> Tensor:
    """Positions of the first `count` by (value falling, id rising), as one integer key: value above, id below.

    Float32 bits sort like integers once a negative's are flipped. Float64 leaves no room for the id and is sorted
    stably, which asks its ids to rise with position.
    """
    if values_BN.dtype == torch.float64:
        return values_BN.sort(dim=-1, descending=True, stable=True).indices[:, :count]
    bits_BN = (values_BN.float() + 0.0).view(torch.int32).to(torch.int64)  # adding 0 makes one zero of the two
    rising_BN = bits_BN ^ ((bits_BN >> 31) & 0x7FFFFFFF)
    return ((rising_BN << 32) | (0xFFFFFFFF - ids_BN)).topk(count, dim=-1).indices


def support(logits_BV: Tensor, controls: Controls, width: int) -> Support:
    """Temperature, then top-k, then nucleus top-p, renormalised over what is kept.

    A candidate stays while the probability before it (under the top-k distribution) is below top-p, so the first one
    always stays. Temperature 0 keeps the first one alone, with log-probabilities taken at temperature 1.

    Args:
        logits_BV: [B, V], any float dtype; the work is done in float32 (float64 stays).
        controls: per-row settings; a row's `top_k` beyond `width` is cut to it.
        width: K.

    """
    logits_BV = logits_BV if logits_BV.dtype == torch.float64 else logits_BV.float()
    greedy_B = controls.temperature_B == 0
    scale_B = torch.where(greedy_B, 1.0, controls.temperature_B).to(logits_BV.dtype).reciprocal()
    top_BK, ids_BK = top_candidates(logits_BV, width)
    scaled_BK = top_BK * scale_B[:, None]
    every_BV = (logits_BV * scale_B[:, None]).log_softmax(-1)  # several times quicker than logsumexp on a CPU
    full_B = scaled_BK[:, 0] - every_BV.gather(1, ids_BK[:, :1]).squeeze(1)
    rank_K = torch.arange(ids_BK.shape[1], device=ids_BK.device)
    kept_k_B = torch.where(greedy_B, 1, controls.top_k_B)
    in_top_k_BK = rank_K < kept_k_B[:, None]
    top_k_BK = scaled_BK.masked_fill(~in_top_k_BK, NEG_INF).softmax(-1)
    before_BK = top_k_BK.cumsum(-1) - top_k_BK
    in_nucleus_BK = (before_BK < controls.top_p_B[:, None]) | (controls.top_p_B[:, None] >= 1)  # 1 keeps all, rounded
    keep_BK = in_top_k_BK & (in_nucleus_BK | (rank_K == 0))
    kept_BK = scaled_BK.masked_fill(~keep_BK, NEG_INF)
    kept_B = kept_BK.logsumexp(-1)
    return Support(ids_BK, kept_BK - kept_B[:, None], kept_B - full_B, keep_BK.sum(-1))


def perturb(support_: Support, noise_BK: Tensor) -> Tensor:
    """Perturbed scores y = log pi~ + g; -inf outside the support (section 1.2 of the paper's sampling).

    Returns:
        [B, K].

    """
    return support_.logprobs_BK + noise_BK


def mixture_weights(scores_BK: Tensor, tau_B: Tensor) -> Tensor:
    """Latent readout z = softmax(y / tau): a Gumbel-softmax sample (Jang et al., arXiv:1611.01144).

    Returns:
        [B, K], rows sum to 1; tau -> 0 makes it one-hot at the token the same noise draws.

    """
    return (scores_BK / tau_B[:, None]).softmax(-1)


def chosen(scores_BK: Tensor) -> Tensor:
    """Token readout: argmax of the perturbed scores, an exact draw from pi~ (the Gumbel-max trick).

    Returns:
        int64 [B], an index into K.

    """
    return scores_BK.argmax(-1)


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


def draw(logits_BV: Tensor, controls: Controls, step_B: Tensor, width: int) -> Drawn:
    """One step of every row: filter, perturb, and read out both the mixture and the token.

    Args:
        logits_BV: [B, V] at the last executed position.
        controls: per-row settings.
        step_B: int64 [B], 0-based position in each row's answer.
        width: K.

    """
    kept = support(logits_BV, controls, width)
    scores_BK = perturb(kept, gumbel(controls.stream_B, step_B, kept.ids_BK))
    weights_BK = mixture_weights(scores_BK, controls.tau_B)
    choice_B = chosen(scores_BK)
    token_B = kept.ids_BK.gather(1, choice_B[:, None]).squeeze(1)
    token_logprob_B = kept.logprobs_BK.gather(1, choice_B[:, None]).squeeze(1) + kept.log_mass_B
    return Drawn(kept.ids_BK, weights_BK, kept.logprobs_BK, kept.log_mass_B, choice_B, token_B, token_logprob_B)
