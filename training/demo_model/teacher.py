"""The demo model's teacher: works a chain step by step, and slips like a pupil.

It forgets to carry or to borrow, the borrow more often than not, and now and then writes a wrong digit. A wrong
partial result is carried on from, so a slip anywhere spoils the answer. A model that imitates it knows how to add and
has something left to learn that is more than confidence. Leaves out the problems (see `training.tasks`).
"""

import random
from dataclasses import dataclass

from training.demo_model.tokenizer import ANSWER
from training.tasks.chained_arithmetic import Chain


@dataclass(frozen=True)
class Slips:
    """How often the teacher goes wrong, per step at which it could."""

    carry: float = 0.15  # of additions that cross a ten, in [0, 1]
    borrow: float = 0.55  # of subtractions that cross a ten, in [0, 1]; above 0.5 the pupil's habit is the wrong one
    digit: float = 0.01  # of all steps, in [0, 1]: a ones digit off by one


def work_step(rng: random.Random, value: int, term: int, slips: Slips) -> int:
    """Return what the teacher writes for `value + term`, 0..99; a result outside wraps around."""
    ones = value % 10 + term
    forgets = (ones > 9 and rng.random() < slips.carry) or (ones < 0 and rng.random() < slips.borrow)
    written = value - value % 10 + ones % 10 if forgets else value + term
    if rng.random() < slips.digit:
        written += rng.choice((-1, 1))
    return written % 100


def work_out(rng: random.Random, chain: Chain, slips: Slips) -> str:
    """Write the partial results and the answer. Example for 47 + 6 - 8 + 9: '53 45 54 Answer: 54'."""
    value, steps = chain.start, []
    for term in chain.terms:
        value = work_step(rng, value, term, slips)
        steps.append(f"{value} ")
    return "".join(steps) + f"{ANSWER}{value}"
