"""One step of many answers at once: filter, perturb, and read out both the mixture and the token.

The draw of a small model is many small operations, each dearer to start than to run: so settings come prepared
(`training.controls`), rows keep their axis ([B, 1]), log-probabilities over the vocabulary are computed once, and a CPU
runs the whole of it as one compiled pass (`training.one_pass`). Leaves out the mathematics (`training.latent`) and when
an answer ends.

Axes: B rows, V vocabulary, K candidates (fixed width, sorted by probability), N further samples.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from training import one_pass
from training.controls import Controls
from training.latent import Support, chosen, mixture_weights, perturb, support
from training.models.backends import settle
from training.noise import gumbel, step_key


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
    settings = controls.scale_B1, controls.top_k_B1, controls.nucleus_B1, controls.floor_B1, controls.stream_B1
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


def averaged_weights(drawn: Drawn, controls: Controls, step_B1: Tensor, most: int) -> Tensor:
    """Latent readout z as the mean of several Gumbel-softmax samples: the same mean as one has, with less noise.

    The first sample is the one that draws the token; sample j has the noise of `noise.step_key(key, -j)`, which is no
    token's noise of the first (ids count from 0), so a row's z does not depend on what the others want. As tau falls
    the mean becomes that of sampled tokens, as in CoT2 (arXiv:2505.23648) and Multiplex (arXiv:2601.08808). What it is
    worth is in docs/learning.md.

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
