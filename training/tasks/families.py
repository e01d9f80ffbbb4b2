"""The families of problems by name, and generation by seed into a split.

A new family is one module with a `Family` and one line in `FAMILIES`. Leaves out reading files (see `jsonl`).
"""

import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from training.tasks.chained_arithmetic import ChainedArithmetic
from training.tasks.countdown import CountdownFamily
from training.tasks.graph_path import GraphPath
from training.tasks.problem import Problem
from training.tasks.reachability import Reachability
from training.tasks.splits import Split, split_of


class Family(Protocol):
    """A source of problems with exact answers."""

    @property
    def name(self) -> str:
        """The family's name, as stored on each of its problems."""

    @property
    def difficulties(self) -> tuple[int, ...]:
        """Difficulties drawn from, uniformly, when a caller names none."""

    def draw(self, rng: random.Random, difficulty: int) -> Problem:
        """Draw one problem; everything random comes from `rng`."""

    def canonical(self, problem: Problem) -> str:
        """Return a text that is the same for all wordings of one problem, and different for different problems."""


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {family.name: family for family in (ChainedArithmetic(), CountdownFamily(), GraphPath(), Reachability())}
)

DRAWS_PER_PROBLEM = 400  # a split of 10% needs about 10; beyond this the family has run out of distinct problems


def generate(
    family: str, split: Split, count: int, *, seed: int, difficulties: tuple[int, ...] | None = None
) -> list[Problem]:
    """Generate `count` distinct problems of one split, the same for the same arguments.

    Raises:
        ValueError: the family is unknown, or has too few distinct problems of these difficulties.

    """
    source = find_family(family)
    rng = random.Random(f"{family}/{split}/{seed}")  # noqa: S311  problems, not secrets
    chosen: dict[str, Problem] = {}
    for _ in range(DRAWS_PER_PROBLEM * count):
        if len(chosen) == count:
            break
        problem = source.draw(rng, rng.choice(difficulties or source.difficulties))
        canonical = source.canonical(problem)
        if split_of(family, canonical) is split:
            chosen.setdefault(canonical, problem)
    if len(chosen) < count:
        raise ValueError(
            f"family {family!r} gave only {len(chosen)} distinct {split} problems of {count}; "
            "ask for fewer, or for greater difficulties"
        )
    return list(chosen.values())


def find_family(name: str) -> Family:
    """Return the family of that name.

    Raises:
        ValueError: there is none; the message lists those there are.

    """
    if name not in FAMILIES:
        raise ValueError(f"unknown task family {name!r}; choose one of {', '.join(sorted(FAMILIES))}")
    return FAMILIES[name]
