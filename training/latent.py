"""The latent step of LEPO (arXiv:2604.17892, section 3): one noise, two readouts.

`support` filters the logits into the sampling distribution, `perturb` adds the Gumbel noise, and the perturbed scores
are read out twice: as a mixture of embeddings (`mixture_weights`, `mix`) and as a token (`chosen`). The engine and
the replay both run these functions; there is no second copy. Leaves out when an answer ends.

Because the filter comes before the noise, the K kept ids and weights are the whole sample: nothing of size V is mixed.
The draw of a small model is many small operations, each dearer to start than to run: so settings come prepared
(`Controls`), rows keep their axis ([B, 1]), log-probabilities over the vocabulary are computed once, and a CPU runs
the whole of it as one compiled pass (`training.one_pass`).

Axes: B rows, V vocabulary, K candidates (fixed width, sorted by probability), D hidden size.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from training import one_pass
from training.backends import settle
from training.candidates import top_candidates
from training.noise import gumbel, step_key, stream
from training.sampling import Sampling

NEG_INF = float("-inf")
_MAX_TOP_K = 2**62  # what a tensor of 64-bit integers holds; a larger setting means the same


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


class Controls(NamedTuple):
    """Per-row settings as a step needs them, one row per answer; see `training.sampling.Sampling` for ranges."""

    scale_B1: Tensor  # float32 [B, 1], 1 / temperature; 1 where that is 0 (greedy)
    top_k_B1: Tensor  # int64 [B, 1]; 1 where greedy
    nucleus_B1: Tensor  # float32 [B, 1], top-p; infinite where that is 1, which keeps all whatever the rounding
    tau_B1: Tensor  # float32 [B, 1]
    stream_B1: Tensor  # int64 [B, 1] from `noise.stream`
    draws_B1: Tensor  # int64 [B, 1], samples averaged at a latent step, >= 1


class Drawn(NamedTuple):
    """One step of every row, both readouts."""

    ids_BK: Tensor  # int64 [B, K]
    logprobs_BK: Tensor  # float32 [B, K], log pi~
    scores_BK: Tensor  # float32 [B, K], perturbed; -inf outside the support
    token_B1: Tensor  # int64 [B, 1], the drawn token: the mode of z
    told_B3: Tensor  # float32 [B, 3], what the host hears: the token (exact below 2^24) and the two below
    tau_B1: Tensor  # float32 [B, 1], of the mixture

    @property
    def token_logprob_B1(self) -> Tensor:
        """Log-probability of the token over the whole vocabulary, float32 [B, 1]."""
        return self.told_B3[:, 1:2]

    @property
    def log_mass_B1(self) -> Tensor:
        """Log of the full-vocabulary probability that the support holds, float32 [B, 1]."""
        return self.told_B3[:, 2:]

    @property
    def weights_BK(self) -> Tensor:
        """Compute z of one sample, float32 [B, K] (what is executed is what is recorded).

        Rows sum to 1, and are 0 outside the support.
        """
        return mixture_weights(self.scores_BK, self.tau_B1).float()


def controls_for(samplings: Sequence[Sampling], device: torch.device) -> Controls:
    """Stack the settings of several answers as tensors on `device`, in their order."""
    real = [(1 / (one.temperature or 1.0), one.top_p if one.top_p < 1 else float("inf"), one.tau) for one in samplings]
    whole = [(min(one.top_k, _MAX_TOP_K) if one.temperature else 1, one.seed, one.draws) for one in samplings]
    scale_B1, nucleus_B1, tau_B1 = torch.tensor(real, dtype=torch.float32, device=device)[:, :, None].unbind(1)
    top_k_B1, seed_B1, draws_B1 = torch.tensor(whole, dtype=torch.int64, device=device)[:, :, None].unbind(1)
    return Controls(scale_B1, top_k_B1, nucleus_B1, tau_B1, stream(seed_B1), draws_B1)


@torch.no_grad()
def support(logits_BV: Tensor, controls: Controls, width: int) -> Support:
    """Temperature, then top-k, then nucleus top-p, renormalised over what is kept.

    A candidate stays while the probability before it (under the top-k distribution) is below top-p, so the first one
    always stays. Temperature 0 keeps the first one alone, with log-probabilities taken at temperature 1. Nothing is
    learned through the filter: gradients come from the replay.

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
    logprobs_BK = kept_BK.masked_fill_(before_BK >= controls.nucleus_B1, NEG_INF).log_softmax(-1)
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


def averaged_weights(drawn: Drawn, controls: Controls, step_B1: Tensor, most: int) -> Tensor:
    """Latent readout z as the mean of several Gumbel-softmax samples: the same mean as one has, with less noise.

    The first sample is the one that draws the token; sample j has the noise of `noise.step_key(key, -j)`, which is no
    token's noise of the first (ids count from 0), so a row's z does not depend on what the others want. Averaging is
    ours (docs/learning.md shows what it is worth).

    Args:
        drawn: the step, with its first sample.
        controls: per-row settings; row b averages `draws_B1[b]` samples.
        step_B1: int64 [B, 1], the steps that `drawn` was drawn at.
        most: samples made, 1 or more; no row wants more.

    Returns:
        float32 [B, K], rows sum to 1, 0 outside the support.

    """
    first_BK = drawn.weights_BK
    if most == 1:
        return first_BK
    number_N1 = torch.arange(1, most, device=first_BK.device)[:, None]
    key_BN = step_key(step_key(controls.stream_B1, step_B1), -number_N1.T)
    noise_BNK = gumbel(key_BN[:, :, None], drawn.ids_BK[:, None])
    more_BNK = mixture_weights(drawn.logprobs_BK[:, None] + noise_BNK, controls.tau_B1[:, None])
    wanted_BNK = more_BNK.float() * (number_N1 < controls.draws_B1[:, None])
    return wanted_BNK.sum(1).add_(first_BK).div_(controls.draws_B1)


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


def prepare(device: torch.device) -> None:
    """Do now what the first draw on a device would have to wait for, and settle what its forwards run by."""
    settle(device)
    if device.type == "cpu":
        one_pass.compiled_draw()


def draw(logits_BV: Tensor, controls: Controls, step_B1: Tensor, width: int) -> Drawn:
    """One step of every row: filter, perturb, and read out both the mixture and the token.

    On a CPU one compiled pass does what `draw_by_parts` says.

    Args:
        logits_BV: [B, V] at the last executed position.
        controls: per-row settings.
        step_B1: int64 [B, 1], the step of each answer, 0-based.
        width: K.

    """
    if not one_pass.fits(logits_BV):
        return draw_by_parts(logits_BV, controls, step_B1, width)
    settings = controls.scale_B1, controls.top_k_B1, controls.nucleus_B1, controls.stream_B1
    return Drawn(*one_pass.draw_rows(logits_BV, *settings, step_B1, width), controls.tau_B1)


def draw_by_parts(logits_BV: Tensor, controls: Controls, step_B1: Tensor, width: int) -> Drawn:
    """One step of every row, as `draw`, by the functions above: the definition, and the way of a GPU."""
    kept = support(logits_BV, controls, width)
    noise_BK = gumbel(step_key(controls.stream_B1, step_B1), kept.ids_BK)
    return read_out(kept, perturb(kept, noise_BK), controls.tau_B1)


def read_out(kept: Support, scores_BK: Tensor, tau_B1: Tensor) -> Drawn:
    """Give what a step has drawn by its scores."""
    choice_B1 = chosen(scores_BK)
    token_B1 = kept.ids_BK.gather(1, choice_B1)
    told_B3 = torch.cat((token_B1, kept.full_BK.gather(1, choice_B1), kept.log_mass_B1), dim=1)
    return Drawn(kept.ids_BK, kept.logprobs_BK, scores_BK, token_B1, told_B3, tau_B1)
