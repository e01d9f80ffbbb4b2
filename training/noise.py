"""Counter-based Gumbel noise: a pure function of (seed, step, token id).

The same answer gets the same noise whatever else is in its batch, whichever slot it sits in, and on every device,
because nothing here has a state. Three rounds of a 64-bit finaliser (the constants are those of SplitMix64: Steele,
Lea and Flood, 2014) stand where a stateful generator would; the draw is tested against the distribution it claims.

Axes: B rows, K candidates.
"""

import torch
from torch import Tensor

GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
MIX_1 = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
MIX_2 = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
UNIFORM_BITS = 52  # one less than a float64's mantissa holds, so that adding a half stays exact and below 1


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift int64 right logically; torch's own shift keeps the sign."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser: a bijection of 64-bit integers in which each input bit moves about half the output's."""
    x = _shift_right(x, 30).bitwise_xor_(x).mul_(MIX_1)
    x = _shift_right(x, 27).bitwise_xor_(x).mul_(MIX_2)
    return _shift_right(x, 31).bitwise_xor_(x)


def stream(seed: Tensor) -> Tensor:
    """Turn seeds into stream keys: compute once per answer, use at each of its steps.

    Args:
        seed: int64, any shape.

    Returns:
        int64 of the same shape.

    """
    return _mix(seed + GOLDEN)


def step_key(stream: Tensor, step: Tensor) -> Tensor:
    """Turn streams and steps into step keys.

    Args:
        stream: int64, from `stream`.
        step: integer, 0-based position in the answer; the two are broadcast.

    Returns:
        int64.

    """
    return _mix(stream + (step.long() + 1) * GOLDEN)


def gumbel(key_B1: Tensor, ids_BK: Tensor) -> Tensor:
    """Gumbel(0, 1) noise for candidates `ids_BK` at one generated position.

    Args:
        key_B1: int64 [B, 1] from `step_key`.
        ids_BK: int64 [B, K] token ids.

    Returns:
        float32 [B, K]; finite, computed in float64 because float32 cannot hold the upper tail.

    """
    bits_BK = _mix(torch.add(key_B1 + GOLDEN, ids_BK, alpha=GOLDEN))
    uniform_BK = _shift_right(bits_BK, 64 - UNIFORM_BITS).to(torch.float64).add_(0.5).mul_(2.0**-UNIFORM_BITS)
    return uniform_BK.log_().neg_().log_().neg_().to(torch.float32)


def choice_seed(seed: int, choice: int) -> int:
    """Seed of choice `choice` of a request seeded `seed`: choice 0 keeps the seed itself.

    Args:
        seed: 0 <= seed < 2**63.
        choice: 0-based index among the `n` answers of one request.

    Returns:
        int in [0, 2**63).

    """
    if choice == 0:
        return seed
    mixed = _mix(_mix(torch.tensor(seed)) + torch.tensor(choice) * GOLDEN)
    return int(mixed.item()) & (2**63 - 1)
