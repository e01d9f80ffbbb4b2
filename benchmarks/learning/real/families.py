"""The families a real model learns: datasets of reasoning-gym, as data, that the base solves now and then.

A family leaves room: the base is right in 5 to 60% of its answers, and in one of eight far more often. Problems of
training, validation and test are of three splits that follow from the questions themselves, so none is in two of them.
Leaves out making the problems (`training.tasks.gym`).
"""

import random
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from training.tasks.gym import make_problems, parse_source
from training.tasks.problem import Problem
from training.tasks.splits import Split


@dataclass(frozen=True, slots=True)
class Family:
    """What is asked.

    Example: `Family("sums", ("reasoning_gym:chain_sum:min_terms=2,max_terms=2",))`.
    """

    name: str
    sources: tuple[str, ...]  # as `lepo train --data` takes them; each gives as many problems as the others

    def problems(self, split: Split, count: int, seed: int) -> list[Problem]:
        """Make distinct problems in an order that the seed decides; an answer is right when its last number is.

        Args:
            split: which problems there are to choose from.
            count: how many, an equal part of each source (the first ones give one more where it does not divide).
            seed: of the choice and of the order, 0 to 4000.

        Raises:
            ValueError: the package is not installed, or a source has not so many distinct questions.

        """
        sizes = [len(range(at, count, len(self.sources))) for at in range(len(self.sources))]
        found: list[Problem] = []
        for written, size in zip(self.sources, sizes, strict=True):
            source = replace(parse_source(written, split), size=size, seed=seed)
            found += [replace(one, grader=last_number(one.answer)) for one in make_problems(source)] if size else []
        return random.Random(f"{self.name}/{seed}").sample(found, count)  # noqa: S311  an order, no secret


def last_number(reference: str) -> dict[str, str]:
    """Write a grader that gives 1 when the last number of an answer is the reference, else 0."""
    return {"type": "string_check", "operation": "eq", "extract": "last_number", "reference": reference}


# Sums of two numbers of one or two digits, and of three of one, alike: sums the base is sometimes right in. Of three
# numbers of two digits it never is, so nothing is learned from them (docs/log.md).
SUM: Final = "reasoning_gym:chain_sum:min_terms={0},max_terms={0},min_digits={1},max_digits={1}"
FAMILIES: Final = MappingProxyType(
    {
        one.name: one
        for one in (
            Family("chain_sum", tuple(SUM.format(*size) for size in ((2, 1), (2, 2), (3, 1)))),
            Family("products", ("reasoning_gym:products:min_digits=1,max_digits=2",)),
        )
    }
)
