"""Intervals of shares that are counted and of means, for one look; for many looks see `sequential`."""

import math
from collections.abc import Sequence

import torch

_Z_95 = 1.959964  # of the normal distribution, two-sided 95%
_RESAMPLES = 10_000
_CHUNK = 2_000_000  # drawn indices held at once


def wilson(right: int, total: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share (Wilson, 1927): it keeps a width where all or none are right.

    Args:
        right: successes, 0 to `total`.
        total: trials, > 0.

    """
    share, z2 = right / total, _Z_95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z_95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total)) / (1 + z2 / total)
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(
    values: Sequence[float], *, confidence: float = 0.95, seed: int = 0, resamples: int = _RESAMPLES
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron, 1979); of paired differences, it is the paired bootstrap.

    Returns:
        Lower and upper end. Values that are all equal give an interval of no width.

    Raises:
        ValueError: no values, or an argument out of range.

    """
    if not values:
        raise ValueError("values is empty: an interval needs at least one")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    if resamples < 1:
        raise ValueError(f"resamples must be 1 or more, got {resamples}")
    values_N = torch.tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    means = []
    for rows in _chunks(resamples, max(1, _CHUNK // len(values))):
        drawn_RN = torch.randint(len(values), (rows, len(values)), generator=generator)
        means.append(values_N[drawn_RN].mean(-1))
    tail = (1.0 - confidence) / 2
    ends = torch.cat(means).quantile(torch.tensor([tail, 1.0 - tail], dtype=torch.float64))
    return float(ends[0]), float(ends[1])


def _chunks(total: int, size: int) -> list[int]:
    """Sizes of pieces that make up `total`."""
    return [min(size, total - start) for start in range(0, total, size)]
