"""Chained arithmetic: a number, then additions and subtractions of single digits, read left to right.

Every partial result stays within 0..99, so the ordinary value of the expression is the answer and a tokenizer with
one token per two-digit number writes each step as one token. Leaves out how a solution is worded
(see `training.demo_model.teacher`).
"""

import random
from dataclasses import dataclass

from training.tasks.problem import Problem

NAME = "chained_arithmetic"
DIFFICULTIES = (4, 5, 6)  # numbers of operations


@dataclass(frozen=True)
class Chain:
    """A start and the operations that follow. Example: Chain(47, (6, -8, 9)) is 47 + 6 - 8 + 9."""

    start: int  # 0..99
    terms: tuple[int, ...]  # each -9..-1 or 1..9

    def expression(self) -> str:
        """Return the chain as people write it."""
        return str(self.start) + "".join(f" {'+' if term > 0 else '-'} {abs(term)}" for term in self.terms)

    def value(self) -> int:
        """Return the chain's value, 0..99."""
        return self.start + sum(self.terms)


def parse_chain(prompt: str) -> Chain:
    """Read the chain back out of a problem's prompt."""
    first, *rest = prompt.removeprefix("Work out ").removesuffix(" step by step.").split()
    signs, digits = rest[::2], rest[1::2]
    return Chain(int(first), tuple(int(sign + digit) for sign, digit in zip(signs, digits, strict=True)))


def draw_chain(rng: random.Random, operations: int) -> Chain:
    """Draw a chain of that many operations whose partial results all lie within 0..99."""
    start = value = rng.randrange(100)
    terms = []
    for _ in range(operations):
        term = rng.randrange(1, 10) * rng.choice((-1, 1))
        if not 0 <= value + term <= 99:
            term = -term
        terms.append(term)
        value += term
    return Chain(start, tuple(terms))


@dataclass(frozen=True)
class ChainedArithmetic:
    """The family: draws problems of one difficulty at a time."""

    name: str = NAME
    difficulties: tuple[int, ...] = DIFFICULTIES

    def draw(self, rng: random.Random, difficulty: int) -> Problem:
        """Draw a problem; `difficulty` is the number of operations."""
        return chain_problem(draw_chain(rng, difficulty))

    def canonical(self, problem: Problem) -> str:
        """Return the expression: two prompts about the same chain are the same problem."""
        return problem.prompt.removeprefix("Work out ").removesuffix(" step by step.")


def chain_problem(chain: Chain) -> Problem:
    """Word a chain as a problem graded by the last number of the answer."""
    answer = str(chain.value())
    grader = {"type": "string_check", "reference": answer, "operation": "eq", "extract": "last_number"}
    return Problem(f"Work out {chain.expression()} step by step.", answer, grader, NAME, len(chain.terms))
