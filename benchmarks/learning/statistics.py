"""Shares over seeds and problems, and the paired interval of a difference.

The bootstrap is hierarchical: seeds are drawn with replacement, then problems, the same ones for both methods; so
an interval holds the spread of training as well as that of problems. Leaves out where figures come from.

Axes: S seeds, N problems, R resamples.
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
    rows_RS = _drawn(gaps[0].shape[0], generator)
    by_problem = [gap[rows_RS].mean(1) for gap in gaps]  # [R, N] each
    means = [of_RN.gather(1, _drawn(of_RN.shape[1], generator)).mean(1) for of_RN in by_problem]
    means_R = torch.stack(means).mean(0)
    low, high = means_R.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Difference(float(torch.stack([gap.mean() for gap in gaps]).mean()), low, high)


def _drawn(count: int, generator: torch.Generator) -> Tensor:
    """Draw so many of so many with replacement, [R, count]."""
    return torch.randint(count, (RESAMPLES, count), generator=generator)
