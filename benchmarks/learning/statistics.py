"""Shares over seeds and problems, and the paired interval of a difference.

The bootstrap is hierarchical: seeds are drawn with replacement, then problems, the same ones for both methods; so
an interval holds the spread of training as well as that of problems. Leaves out where figures come from.

Axes: S seeds, N problems.
"""

from collections.abc import Sequence
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


def difference(one: Sequence[Tensor], other: Sequence[Tensor], seed: int = 0) -> Difference:
    """Bootstrap the mean over families of mean(one - other).

    Args:
        one: a table [S, N] per family; a run is of all families, so seeds are drawn for all of them together, and
            problems within each.
        other: the tables it is compared with.
        seed: of the resampling.

    Raises:
        ValueError: the two are not over the same seeds and problems.

    """
    if [table.shape for table in one] != [table.shape for table in other]:
        shapes = [[tuple(table.shape) for table in tables] for tables in (one, other)]
        raise ValueError(f"not paired: {shapes[0]} against {shapes[1]}")
    gaps = [mine_SN.double() - its_SN.double() for mine_SN, its_SN in zip(one, other, strict=True)]
    generator = torch.Generator().manual_seed(seed)
    means = []
    for _ in range(RESAMPLES):
        rows_S = _drawn(gaps[0].shape[0], generator)
        means.append(torch.stack([gap[rows_S][:, _drawn(gap.shape[1], generator)].mean() for gap in gaps]).mean())
    low, high = torch.stack(means).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Difference(float(torch.stack([gap.mean() for gap in gaps]).mean()), low, high)


def _drawn(count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(count, (count,), generator=generator)
