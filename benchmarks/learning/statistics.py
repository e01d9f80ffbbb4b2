"""Shares over seeds and problems, and the paired interval of a difference.

The bootstrap is hierarchical: seeds are drawn with replacement, then problems, the same ones for both methods; so
an interval holds the spread of training as well as that of problems. Leaves out where figures come from.

Axes: S seeds, N problems.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired difference of means with its 95% interval, as shares in [-1, 1]."""

    mean: float
    low: float
    high: float


def difference(one_SN: Tensor, other_SN: Tensor, seed: int = 0) -> Difference:
    """Bootstrap mean(one - other), both [S, N] over the same seeds and problems.

    Raises:
        ValueError: the two are not over the same seeds and problems.

    """
    if one_SN.shape != other_SN.shape:
        raise ValueError(f"not paired: {tuple(one_SN.shape)} against {tuple(other_SN.shape)}")
    gap_SN = one_SN.double() - other_SN.double()
    seeds, problems = gap_SN.shape
    generator = torch.Generator().manual_seed(seed)
    means = []
    for _ in range(RESAMPLES):
        rows = torch.randint(seeds, (seeds,), generator=generator)
        columns = torch.randint(problems, (problems,), generator=generator)
        means.append(gap_SN[rows][:, columns].mean())
    low, high = torch.stack(means).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Difference(float(gap_SN.mean()), low, high)
