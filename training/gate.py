"""The held-out gate: may a new policy replace the old one, judged on the same prompts before and after.

The rule is meant to stop a fall, not to prove a rise: small updates are rarely significant alone, and a gate that asks
each for proof promotes nothing. A rejected update has a difference whose whole interval lies below 0, or one that fell
by more than the margin. "No signal" is its own verdict: a gate that could not have seen a collapse has not approved.
Leaves out how the prompts are answered and graded.

Simulated in its test (200 prompts of mixed difficulty, sampled answers): with margin 0.05 it stops 6% of equal policies
and 92% of those that fell by 10 points, with margin 0.1 it stops 3% and 76%. Greedy answers agree more between versions
than sampled ones, so the gate errs less on them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

Decision = Literal["promote", "reject", "no_signal"]
_RESAMPLES = 10_000
_CHUNK = 2_000_000  # drawn indices held at once


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's decision and the figures it rests on."""

    decision: Decision
    difference: float  # mean after minus mean before; 0 when n is 0
    low: float  # lower end of the paired bootstrap interval of the difference
    high: float  # its upper end
    before: float  # mean outcome of the old policy; 0 when n is 0
    after: float  # mean outcome of the new policy; 0 when n is 0
    n: int  # prompts


def judge(
    before: Sequence[bool | float],
    after: Sequence[bool | float],
    margin: float,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    floor: float = 0.0,
    resamples: int = _RESAMPLES,
) -> Verdict:
    """Compare two policies on the same held-out prompts, pair by pair.

    Reject: the interval of the difference lies wholly below 0, or the difference is below `-margin`.
    No signal: there are no prompts; or nothing rose and the old outcomes are so close to the floor that even a policy
    that fails on everything would have passed (all wrong before and all wrong after is the plain case). All right
    before and all right after is a signal: a fall would have shown.
    Promote: otherwise.

    Args:
        before: outcome of the old policy per prompt, higher is better.
        after: outcome of the new policy on the same prompts, in the same order.
        margin: fall of the mean that is too much whatever the interval says, >= 0.
        confidence: of the interval, in (0, 1).
        seed: of the bootstrap; the same call gives the same verdict.
        floor: the lowest outcome there is.
        resamples: of the bootstrap.

    Raises:
        ValueError: lengths differ, an outcome is not finite or below the floor, or an argument is out of range.

    """
    if len(before) != len(after):
        raise ValueError(f"before and after must pair up: {len(before)} and {len(after)} outcomes")
    if not 0.0 <= margin < math.inf:
        raise ValueError(f"margin must be 0 or more, got {margin}")
    old, new = [float(value) for value in before], [float(value) for value in after]
    if any(not math.isfinite(value) or value < floor for value in old + new):
        raise ValueError(f"outcomes must be finite and not below the floor {floor}")
    if not old:
        return Verdict("no_signal", 0.0, 0.0, 0.0, 0.0, 0.0, 0)
    interval = _Interval(confidence, seed, resamples)
    differences = [later - earlier for earlier, later in zip(old, new, strict=True)]
    low, high = interval.of(differences)
    difference = _mean(differences)
    decision: Decision = "promote"
    if high < 0.0 or difference < -margin:
        decision = "reject"
    elif difference <= 0.0 and not _sees_collapse(old, floor, margin, interval):
        decision = "no_signal"
    return Verdict(decision, difference, low, high, _mean(old), _mean(new), len(old))


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


@dataclass(frozen=True, slots=True)
class _Interval:
    """How an interval is taken, the same for what happened and for the imagined collapse."""

    confidence: float
    seed: int
    resamples: int

    def of(self, values: Sequence[float]) -> tuple[float, float]:
        return bootstrap_interval(values, confidence=self.confidence, seed=self.seed, resamples=self.resamples)


def _sees_collapse(old: Sequence[float], floor: float, margin: float, interval: _Interval) -> bool:
    """Whether a new policy at the floor on every prompt would be rejected."""
    fallen = [floor - value for value in old]
    return _mean(fallen) < -margin or interval.of(fallen)[1] < 0.0


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _chunks(total: int, size: int) -> list[int]:
    """Sizes of pieces that make up `total`."""
    return [min(size, total - start) for start in range(0, total, size)]
