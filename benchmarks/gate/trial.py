"""Trials of the gate and of the canary's test: simulated policies in, what became of them out.

What decides is the product's own code: `worker.gate.look.Look` with the service's default settings, and
`training.statistics.sequential`. Leaves out how policies answer (`policies`) and what the figures must reach
(`command`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.settings import Settings
from benchmarks.gate.policies import lineage_of
from training.statistics.sequential import Decision, differences_of, first_crossing, first_decision
from worker.gate.look import Look, Recorded


@dataclass(frozen=True, slots=True)
class Course:
    """What became of a lineage."""

    start: float  # true mean of the base
    end: float  # of what serves after the last look
    peak: float  # the highest that served
    promoted: tuple[bool, ...]  # look by look
    answers: int  # that the gate asked in all, of candidates, incumbents and the base


@dataclass(frozen=True, slots=True)
class CanaryRun:
    """What the canary's test said of one pair of policies."""

    decision: Decision
    grades: int  # that had arrived when it was said, of both policies
    of_canary: int  # of these, the canary's
    alarmed: bool  # whether "worse" was ever shown, had it gone on to the last grade


def course(start: float, changes: Sequence[float], seed: int, settings: Settings) -> Course:
    """Send a candidate to the gate for every change, each learned from what serves then.

    Args:
        start: true mean of the base.
        changes: of the true mean, candidate minus what serves.
        seed: of questions and noise.
        settings: the gate's.

    """
    lineage = lineage_of(start, settings.heldout_size, settings.heldout_sealed, seed)
    recorded: list[Recorded] = []
    serving, peak, promoted = 0, start, []
    for number, change in enumerate(changes, start=1):
        lineage.learn(number, serving, change)
        look = Look(settings, lineage.questions, recorded, f"{seed}/{number}", number, serving, 0, range(number))
        before = lineage.ask(serving, look.first)
        result = look.examine(before, lineage.ask)
        passed = result.decision == "pass"
        recorded += [one for one in result.scores if passed or one[0] != number]
        serving = number if passed else serving if result.better is None else result.better
        peak = max(peak, lineage.levels[serving])
        promoted.append(passed)
    return Course(start, lineage.levels[serving], peak, tuple(promoted), lineage.answers)


def canary(level: float, fall: float, share: float, grades: int, margin: float, alpha: float, seed: int) -> CanaryRun:
    """Grade right and wrong answers of two policies as they arrive, and look after every grade.

    Args:
        level: true mean of what serves.
        fall: how far the canary is below it.
        share: of traffic that the canary gets.
        grades: most that arrive, of both.
        margin: of the test.
        alpha: of the test.
        seed: of arrivals and rewards.

    """
    rng = np.random.default_rng([seed, 2])
    is_new_N = rng.random(grades) < share
    reward_N = (rng.random(grades) < np.where(is_new_N, level - fall, level)).astype(float)
    arrivals = list(zip(is_new_N.tolist(), reward_N.tolist(), strict=True))
    differences = differences_of(arrivals)
    complete = completions(is_new_N.tolist())
    pairs, decision = first_decision(differences, margin, alpha)
    seen = grades if decision == "undecided" else complete[pairs - 1]
    worse = first_crossing((1.0 - np.array(differences)) / 2, 0.5, alpha)
    return CanaryRun(decision, seen, int(is_new_N[:seen].sum()), bool(worse < len(differences)))


def completions(is_new: Sequence[bool]) -> list[int]:
    """Count how many grades had arrived when each pair of `differences_of` was complete."""
    found, old, new = [], False, False
    for count, one in enumerate(is_new, start=1):
        old, new = old or not one, new or one
        if old and new:
            found.append(count)
            old = new = False
    return found
