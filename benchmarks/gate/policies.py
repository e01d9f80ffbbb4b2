"""Simulated policies: their true share of right answers is known, their answers are as noisy as the demo's.

Questions are of mixed difficulty (each has its chance of a right answer, Beta distributed), an answer is right or
wrong, and versions that meet the same question with the same seed mostly agree: behind each answer stands a normal
number that belongs to the seed and drifts a little from a version to the one that was learned from it. The figures are
those of the demo's model, asked its 200 held-out prompts with 12 seeds after each of 26 updates (`docs/log.md`).
Leaves out the gate.

Axes: Q questions, I items.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from worker.gate.evaluation import EvaluationPlan, Scores
from worker.gate.evaluation_set import EvaluationSet, Question, evaluation_set

Floats = NDArray[np.float64]

DRIFT = 0.962  # correlation of the normal number between a version and its parent: four fifths of right and wrong agree
SPREAD = 0.036  # variance of the chance of a right answer over the questions, at a mean of 0.725
SPREAD_AT = 0.725
TOKENS = 12  # length of every answer
_HALVINGS = 40


@dataclass(slots=True)
class Lineage:
    """Versions that came from each other, and what they answer."""

    levels: dict[int, float]  # by version: true mean over the gate's questions
    parents: dict[int, int]  # by version; the base has none
    questions: EvaluationSet
    logit_Q: Floats  # difficulty, in the order of the gate's questions
    answers: int = 0  # given so far
    _thresholds: dict[float, Floats] = field(default_factory=dict)
    _places: dict[str, int] = field(default_factory=dict)

    def learn(self, version: int, parent: int, change: float) -> None:
        """Add a version whose true mean is that of its parent, changed."""
        self.parents[version] = parent
        self.levels[version] = min(max(self.levels[parent] + change, 0.005), 0.995)

    def ask(self, version: int, plan: EvaluationPlan) -> Scores:
        """Answer a plan, as `worker.gate.look` asks."""
        places = self._places or {key: place for place, key in enumerate(self.questions.questions)}
        self._places = places
        place_I = np.array([places[item.question] for item in plan.items])
        seed_I = np.array([item.seed for item in plan.items], dtype=np.uint64)
        right_I = self._number(version, seed_I) < self._threshold(self.levels[version])[place_I]
        self.answers += len(plan.items)
        return Scores(plan, tuple(right_I.astype(float).tolist()), (TOKENS,) * len(plan.items))

    def _number(self, version: int, seed_I: NDArray[np.uint64]) -> Floats:
        """Give the normal number behind each answer."""
        own_I = normal(seed_I, version)
        if version not in self.parents:
            return own_I
        mixed_I: Floats = DRIFT * self._number(self.parents[version], seed_I) + (1 - DRIFT**2) ** 0.5 * own_I
        return mixed_I

    def _threshold(self, level: float) -> Floats:
        """Give what the number of a right answer is below, for each question at this mean."""
        if level not in self._thresholds:
            chance_Q = chances(self.logit_Q, level)
            self._thresholds[level] = torch.special.ndtri(torch.from_numpy(chance_Q)).numpy()
        return self._thresholds[level]


def lineage_of(level: float, questions: int, sealed: float, seed: int) -> Lineage:
    """Make a base of a true mean, version 0.

    Args:
        level: its mean over the gate's questions.
        questions: those of the held-out file.
        sealed: share of them that the gate does not ask.
        seed: names the questions.

    """
    held = evaluation_set((Question(f"{seed}/{index}", (seed, index), {}) for index in range(questions)), sealed)
    rng = np.random.default_rng([seed, 1])
    size = SPREAD_AT * (1 - SPREAD_AT) / SPREAD - 1
    chance_Q = rng.beta(SPREAD_AT * size, (1 - SPREAD_AT) * size, len(held.questions)).clip(0.002, 0.998)
    return Lineage({0: level}, {}, held, np.log(chance_Q / (1 - chance_Q)))


def chances(logit_Q: Floats, level: float) -> Floats:
    """Make all questions easier or harder by the same, so that the mean chance of a right answer is `level`."""
    low, high = -12.0, 12.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if (1 / (1 + np.exp(-(logit_Q + middle)))).mean() < level:
            low = middle
        else:
            high = middle
    return np.asarray(1 / (1 + np.exp(-(logit_Q + low))))


def normal(seed_I: NDArray[np.uint64], version: int) -> Floats:
    """Give standard normal numbers that are a function of seed and version alone."""
    mixed_I = seed_I + np.uint64((version * 0x9E3779B97F4A7C15) % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed_I = (mixed_I ^ (mixed_I >> np.uint64(shift))) * np.uint64(factor)
    mixed_I ^= mixed_I >> np.uint64(31)
    uniform_I = (mixed_I >> np.uint64(11)).astype(np.float64) / 2**53 + 2**-54
    return np.asarray(torch.special.ndtri(torch.from_numpy(uniform_I)).numpy())
