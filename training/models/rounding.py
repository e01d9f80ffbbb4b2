"""Rounding to bfloat16 that keeps, over many weights, what is smaller than the distance of two numbers.

Rounding to the nearest drops a change below half that distance everywhere: nothing of it is left. Here a number goes
up or down by a threshold of its own: of equal changes of a tenth of the distance, a tenth of the numbers take a whole
one. So sums over many weights, which is what a layer computes, keep the change (dithering; with fresh thresholds each
time it is known as stochastic rounding, Gupta et al., arXiv:1502.02551). The thresholds are a function of a key and of
a number's place, so the same tensor rounds to the same bits at every time, and as a change grows a number crosses its
threshold once. Leaves out what is rounded (`training.models.lora`).
"""

import torch
from torch import Tensor

from training.noise import step_key, stream

_LOW_BITS = 16  # of a float32, that a bfloat16 does not hold
_LOW = (1 << _LOW_BITS) - 1


def dithered(exact: Tensor, key: int, first: int = 0) -> Tensor:
    """Round float32 to bfloat16, each number by a threshold of its own; what bfloat16 holds exactly stays.

    Args:
        exact: float32, any shape.
        key: names the thresholds, >= 0.
        first: place of the first number among those of the key, for a tensor rounded in parts.

    Returns:
        bfloat16 of the same shape; a number that is not finite stays what it is.

    """
    places = torch.arange(first, first + exact.numel(), device=exact.device).view(exact.shape)
    thresholds = step_key(stream(torch.tensor(key, device=exact.device)), places).bitwise_and_(_LOW).int()
    bits = exact.contiguous().view(torch.int32)
    rounded = (bits + thresholds).bitwise_and_(~_LOW).view(torch.float32)
    return torch.where(exact.isfinite(), rounded, exact).to(torch.bfloat16)
