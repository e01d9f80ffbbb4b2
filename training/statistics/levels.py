"""How good versions of a policy are beside each other, from everything they were ever asked.

Two versions that answered the same items (a question with a seed) share the questions and the noise, so their
difference is far surer than either level: with latent reasoning at equal seeds four fifths of the variance cancel
between one version and the next. Items are asked once, so versions further apart are compared by the chain of pairs
between them and by their levels, both at once: generalised least squares over all rounds, in which the errors of one
round are correlated as its answers say. What is known of a question's difficulty from earlier rounds is taken off
first, so it matters little which questions a round asked. Small losses add up here, and are seen. Plain arithmetic;
leaves out what is decided (`training.statistics.gate`).

Axes: I items, V versions.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_SHRINKAGE = 1.5  # answers to a question that say nothing of its difficulty, in effect
_DOUBT = 0.25  # squared outcome added to a round's variance: a few equal answers do not make it 0


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """Items and what became of them, answered by one version or by several."""

    items: tuple[str, ...]  # the question of each item; a question may be asked with several seeds
    outcomes: Mapping[int, tuple[float | None, ...]]  # by version: in [0, 1], None without a grade; may end early


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one version is above another."""

    estimate: float  # of the mean outcome, > 0 when better
    error: float  # standard error, > 0


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What one round says of the levels of its versions."""

    versions: tuple[int, ...]
    level_V: Floats  # mean outcome, the questions' difficulty taken off
    covariance_VV: Floats  # of the errors of `level_V`


class Levels:
    """Levels of all versions that were measured, with their joint error.

    Raises:
        ValueError: nothing was measured.

    """

    def __init__(self, measured: Sequence[Measured]) -> None:
        self._row = {version: row for row, version in enumerate(sorted({v for one in measured for v in one.versions}))}
        if not self._row:
            raise ValueError("measured is empty: levels need at least one round with two graded answers")
        precision_VV, pull_V = np.zeros((len(self._row),) * 2), np.zeros(len(self._row))
        for one in measured:
            rows = [self._row[version] for version in one.versions]
            weight_VV = np.linalg.inv(one.covariance_VV)
            precision_VV[np.ix_(rows, rows)] += weight_VV
            pull_V[rows] += weight_VV @ one.level_V
        self._covariance_VV: Floats = np.linalg.inv(precision_VV).astype(np.float64)
        self._level_V: Floats = self._covariance_VV @ pull_V

    @property
    def versions(self) -> list[int]:
        """The versions that were measured, in order."""
        return list(self._row)

    def difference(self, version: int, reference: int) -> Difference:
        """Say how far a version is above a reference; a version is above itself by 0, surely."""
        one, other = self._row[version], self._row[reference]
        covariance = self._covariance_VV
        variance = covariance[one, one] + covariance[other, other] - 2 * covariance[one, other]
        return Difference(float(self._level_V[one] - self._level_V[other]), float(max(variance, 0.0)) ** 0.5)


def difficulty(rounds: Sequence[Round]) -> dict[str, float]:
    """How much better than its round each question was answered so far, shrunk to 0 where it was asked little."""
    total: dict[str, float] = defaultdict(float)
    count: dict[str, int] = defaultdict(int)
    for one in rounds:
        for outcomes in one.outcomes.values():
            graded = [(item, value) for item, value in zip(one.items, outcomes, strict=False) if value is not None]
            mean = sum(value for _, value in graded) / max(1, len(graded))
            for item, value in graded:
                total[item] += value - mean
                count[item] += 1
    return {item: total[item] / (count[item] + _SHRINKAGE) for item in total}


def measure(one: Round, known: Mapping[str, float]) -> Measured | None:
    """Read a round; None when no version has two graded answers.

    Args:
        one: the round.
        known: difficulty of the questions, as it was known before the round; what is not in it counts as 0.

    """
    base_I = np.array([known.get(item, 0.0) for item in one.items])
    versions, rests = [], []
    for version, outcomes in one.outcomes.items():
        rest_I = np.full(len(base_I), np.nan)
        rest_I[: len(outcomes)] = [np.nan if value is None else value for value in outcomes]
        if np.isfinite(rest_I).sum() >= 2:
            versions.append(version)
            rests.append(rest_I - base_I)
    if not versions:
        return None
    rest_VI = np.stack(rests)
    there_VI = np.isfinite(rest_VI)
    count_V = there_VI.sum(-1)
    level_V = np.where(there_VI, rest_VI, 0.0).sum(-1) / count_V
    centred_VI = np.where(there_VI, rest_VI - level_V[:, None], 0.0)
    shared_VV = there_VI.astype(np.float64) @ there_VI.T
    product_VV = centred_VI @ centred_VI.T + _DOUBT * np.eye(len(versions))
    # mean product over the shared answers, times shared / (n n'), which is the covariance of the two means
    covariance_VV = product_VV * shared_VV / np.maximum(shared_VV - 1.0, 1.0) / np.outer(count_V, count_V)
    return Measured(tuple(versions), level_V, covariance_VV)
