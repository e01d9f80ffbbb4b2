"""The settings of several answers as one step needs them: prepared tensors, a row per answer.

Axes: B rows.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from training.noise import stream
from training.sampling import Sampling

_MAX_TOP_K = 2**62  # what a tensor of 64-bit integers holds; a larger setting means the same


class Controls(NamedTuple):
    """Per-row settings as a step needs them, one row per answer; see `training.sampling.Sampling` for ranges."""

    scale_B1: Tensor  # float32 [B, 1], 1 / temperature; 1 where that is 0 (greedy)
    top_k_B1: Tensor  # int64 [B, 1]; 1 where greedy
    nucleus_B1: Tensor  # float32 [B, 1], top-p; infinite where that is 1, which keeps all whatever the rounding
    tau_B1: Tensor  # float32 [B, 1]
    stream_B1: Tensor  # int64 [B, 1] from `noise.stream`
    draws_B1: Tensor  # int64 [B, 1], samples averaged at a latent step, >= 1
    floor_B1: Tensor  # float32 [B, 1], log of min-p: of how far a kept candidate may lie below the first; -inf: off


def controls_for(samplings: Sequence[Sampling], device: torch.device) -> Controls:
    """Stack the settings of several answers as tensors on `device`, in their order."""
    real = [_real(one) for one in samplings]
    whole = [(min(one.top_k, _MAX_TOP_K) if one.temperature else 1, one.seed, one.draws) for one in samplings]
    scale_B1, nucleus_B1, tau_B1, floor_B1 = torch.tensor(real, dtype=torch.float32, device=device)[:, :, None].unbind(
        1
    )
    top_k_B1, seed_B1, draws_B1 = torch.tensor(whole, dtype=torch.int64, device=device)[:, :, None].unbind(1)
    return Controls(scale_B1, top_k_B1, nucleus_B1, tau_B1, stream(seed_B1), draws_B1, floor_B1)


def _real(one: Sampling) -> tuple[float, float, float, float]:
    """Give the settings of one answer that are no whole numbers, in their order."""
    nucleus = one.top_p if one.top_p < 1 else math.inf
    return 1 / (one.temperature or 1.0), nucleus, one.tau, math.log(one.min_p) if one.min_p else -math.inf
