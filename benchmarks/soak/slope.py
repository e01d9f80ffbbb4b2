"""Whether a figure grows: the slope of a line through it, with an interval that minds what follows from the last value.

Samples a second apart are no independent ones, so a series is first cut into blocks, and the line goes through their
means.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from statistics import fmean
from typing import Final

BLOCKS: Final = 10
FEWEST: Final = 4  # blocks that have an interval
# Two-sided 95% quantiles of Student's t for 2 .. 8 degrees of freedom, by blocks - 2.
T_95: Final = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306}


@dataclass(frozen=True, slots=True)
class Slope:
    """How a figure changes."""

    mean: float  # of the figure
    per_minute: float
    low: float  # 95%, of `per_minute`
    high: float


def slope_of(times_s: Sequence[float], values: Sequence[float]) -> Slope:
    """Put a line through a series.

    Args:
        times_s: when each value was taken, rising.
        values: as many.

    Raises:
        ValueError: fewer than four values.

    """
    if len(values) < FEWEST or len(values) != len(times_s):
        raise ValueError(f"a slope needs {FEWEST} values or more, each with its time; got {len(values)}")
    blocks = min(BLOCKS, len(values))
    cuts = [len(values) * index // blocks for index in range(blocks + 1)]
    xs = [fmean(times_s[a:b]) / 60 for a, b in pairwise(cuts)]
    ys = [fmean(values[a:b]) for a, b in pairwise(cuts)]
    middle_x, middle_y = fmean(xs), fmean(ys)
    spread = sum((x - middle_x) ** 2 for x in xs)
    slope = sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True)) / spread
    rest = sum((y - middle_y - slope * (x - middle_x)) ** 2 for x, y in zip(xs, ys, strict=True))
    error = T_95[blocks - 2] * sqrt(rest / (blocks - 2) / spread)
    return Slope(fmean(values), slope, slope - error, slope + error)
