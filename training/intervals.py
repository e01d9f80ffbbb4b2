"""Intervals of shares that are counted; those of means are `training.gate.bootstrap_interval`'s."""

import math

_Z_95 = 1.959964  # of the normal distribution, two-sided 95%


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
