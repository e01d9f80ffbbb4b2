"""Tests of a mean that stay valid however often they are looked at, by betting.

Somebody who does not believe that a mean is `m` bets against it, value by value, at odds that are fair if it is. Then
their capital is worth no more than it was in expectation, and the chance that it is ever multiplied by 1 / alpha is at
most alpha (Ville's inequality), whatever the values are otherwise, as long as they are bounded. So a look after every
value costs nothing, and a test may end when it likes. Means that were bet against with success are outside the
confidence sequence. See Waudby-Smith and Ramdas, arXiv:2010.09686 (betting), and Howard, Ramdas, McAuliffe and Sekhon,
arXiv:1810.08240 (confidence sequences).

How much to bet depends on what one is looking for. Here the capital is divided among fixed fractions, from timid to
bold, so nothing is tuned to the data. Assumed is that each value has the same mean given those before it; values need
not be independent otherwise. Leaves out where values come from.

Axes: R runs (any leading axes), N values in order of arrival.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Decision = Literal["worse", "not_worse", "better", "undecided"]
Floats = NDArray[np.float64]

_FRACTIONS: Final = np.geomspace(0.003, 0.9, 24)  # of the largest bet that cannot lose everything
_TINY: Final = 1e-9  # means are kept this far from the ends of their range
_HALVINGS: Final = 30  # of an interval of means; 1e-9 of the range


@dataclass(frozen=True, slots=True)
class ConfidenceSequence:
    """Interval of a mean after each of its values: all of them hold it at once, with probability 1 - alpha or more.

    Example: `ConfidenceSequence((1.0, 0.0, 1.0), alpha=0.05, low=0.0).interval()`.

    Raises:
        ValueError: a value is out of range, or alpha is.

    """

    values: tuple[float, ...]  # in order of arrival, each in [low, high]
    alpha: float = 0.05  # chance that any of the intervals misses the mean, in (0, 1)
    low: float = -1.0  # the smallest value there can be; a difference of two rewards in [0, 1] has -1
    high: float = 1.0  # the largest

    def __post_init__(self) -> None:
        _scaled(self.values, self.low, self.high)
        _checked(self.alpha)

    def interval(self, look: int | None = None) -> tuple[float, float]:
        """Give the ends after `look` values; without it, after all of them. No values say nothing."""
        scaled_N = _scaled(self.values, self.low, self.high)[:look]
        if not scaled_N.size:
            return self.low, self.high
        size = self.high - self.low
        limit = np.log(2.0 / self.alpha)
        return (
            self.low + size * _lower_end(scaled_N, float(limit)),
            self.high - size * _lower_end(1.0 - scaled_N, float(limit)),
        )


def decide(differences: Iterable[float], margin: float, alpha: float) -> Decision:
    """Say what differences of rewards, new policy minus old, in order of arrival, have shown by now.

    May be asked after every difference: `worse` is said of policies that are not worse, at any look, with probability
    alpha or less, and likewise `better` of one that is not, `not_worse` of one that is worse by the margin or more.
    What was said at an earlier look stays said, except that `not_worse` may become `better`.

    Args:
        differences: each in [-1, 1], for instance of `differences_of`.
        margin: fall of the mean that is still taken as no fall, in (0, 1).
        alpha: chance of each of those errors, in (0, 1).

    Raises:
        ValueError: an argument is out of range.

    """
    _, decision = first_decision(list(differences), margin, alpha)
    return decision


def first_decision(differences: Sequence[float], margin: float, alpha: float) -> tuple[int, Decision]:
    """Like `decide`, with the number of differences at which that was shown (all of them while undecided)."""
    if not 0.0 < margin < 1.0:
        raise ValueError(f"margin must be in (0, 1), got {margin}")
    scaled_N = _scaled(differences, -1.0, 1.0)
    worse = int(first_crossing(1.0 - scaled_N, 0.5, alpha))
    not_worse = int(first_crossing(scaled_N, 0.5 - margin / 2, alpha))
    better = int(first_crossing(scaled_N, 0.5, alpha))
    never = len(differences)
    if worse < never and worse <= not_worse:
        return worse + 1, "worse"
    if better < never:
        return better + 1, "better"
    return (not_worse + 1, "not_worse") if not_worse < never else (never, "undecided")


def first_crossing(values_RN: ArrayLike, mean: float, alpha: float) -> NDArray[np.int64]:
    """Index of the value at which it is shown that the mean of values in [0, 1] is above `mean`; N where it never is.

    Shown wrongly, ever, with probability alpha or less.
    """
    _checked(alpha)
    values = np.asarray(values_RN, dtype=np.float64)
    crossed_RN = log_wealth(values, mean) >= np.log(1.0 / alpha)
    never_R = ~crossed_RN.any(-1)
    return np.where(never_R, values.shape[-1], crossed_RN.argmax(-1) if values.shape[-1] else 0)


def log_wealth(values_RN: ArrayLike, mean: float) -> Floats:
    """Logarithm of what a capital of 1 has become after each value, betting that the mean is above `mean`.

    Args:
        values_RN: in [0, 1], in order of arrival along the last axis.
        mean: of the null hypothesis, "the mean is at most this", in [0, 1].

    """
    gain_RN = np.asarray(values_RN, dtype=np.float64) / min(max(mean, _TINY), 1.0) - 1.0
    total_RN = np.full(gain_RN.shape, -np.inf)
    for fraction in _FRACTIONS:
        np.logaddexp(total_RN, np.cumsum(np.log1p(fraction * gain_RN), axis=-1), out=total_RN)
    logs_RN: NDArray[np.float64] = total_RN - np.log(len(_FRACTIONS))
    return logs_RN


def differences_of(arrivals: Iterable[tuple[bool, float]]) -> list[float]:
    """Pair two streams of rewards that arrive mixed, for instance those of a canary and of the policy beside it.

    A pair is complete as soon as both policies have a reward in it: the mean of the new policy's rewards since the last
    pair, minus that of the old one's. Both means are of the same moments, so a change of what users ask in the course
    of a day does not look like a change of the policy; and with a small share of traffic for the new policy, hardly
    anything is lost by it. The assignment of requests must not depend on rewards.

    Args:
        arrivals: whether it is the new policy's, and the reward in [0, 1]; in order of arrival.

    Returns:
        differences in [-1, 1], in order.

    """
    found: list[float] = []
    old: list[float] = []
    new: list[float] = []
    for is_new, reward in arrivals:
        (new if is_new else old).append(reward)
        if old and new:
            found.append(sum(new) / len(new) - sum(old) / len(old))
            old, new = [], []
    return found


def _lower_end(scaled_N: Floats, limit: float) -> float:
    """Find the largest mean that was bet against with success at some look, "the mean is above it"; 0 if none was."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if log_wealth(scaled_N, middle).max() >= limit:
            low = middle
        else:
            high = middle
    return low


def _scaled(values: Sequence[float], low: float, high: float) -> Floats:
    """Bring values to [0, 1]."""
    values_N = np.asarray(values, dtype=np.float64)
    if not low < high:
        raise ValueError(f"low must be below high, got {low} and {high}")
    if values_N.size and not (values_N.min() >= low and values_N.max() <= high):
        raise ValueError(f"values must be in [{low}, {high}], got {values_N.min()} to {values_N.max()}")
    return (values_N - low) / (high - low)


def _checked(alpha: float) -> None:
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha must be in (0, 1), got {alpha}")
