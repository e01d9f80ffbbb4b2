"""Countdown: reach the target with the given numbers, each used exactly once, by adding and subtracting.

The first number is any of 0..99 and the others are single digits. A problem is a chain whose signs are hidden (see
`chained_arithmetic`), so there is always a solution whose partial results stay within 0..99. Any solution counts.
Leaves out multiplying and dividing, which the grader knows, and how a solution is worded.
"""

import random
from dataclasses import dataclass

from training.tasks.chained_arithmetic import Chain, draw_chain
from training.tasks.problem import Problem

NAME = "countdown"
DIFFICULTIES = (3, 4)  # numbers after the first


@dataclass(frozen=True)
class CountdownFamily:
    """The family: draws problems of one difficulty at a time."""

    name: str = NAME
    difficulties: tuple[int, ...] = DIFFICULTIES

    def draw(self, rng: random.Random, difficulty: int) -> Problem:
        """Draw a problem; `difficulty` is how many numbers follow the first."""
        return countdown_problem(draw_chain(rng, difficulty))

    def canonical(self, problem: Problem) -> str:
        """Return the target and the sorted numbers: their order in the prompt asks nothing else."""
        numbers = sorted(problem.grader["numbers"])
        return f"{problem.grader['target']} from {' '.join(map(str, numbers))}"


def countdown_problem(chain: Chain) -> Problem:
    """Word the problem that the chain solves."""
    numbers = [chain.start, *map(abs, chain.terms)]
    prompt = f"Reach {chain.value()} from {' '.join(map(str, numbers))}."
    grader = {
        "type": "countdown",
        "numbers": numbers,
        "target": chain.value(),
        "extract": "after_marker",
        "marker": "Answer:",
    }
    return Problem(prompt, chain.expression(), grader, NAME, len(chain.terms))
