"""A family that a random model solves now and then, and a plan small enough for a test."""

from dataclasses import replace
from pathlib import Path

from benchmarks.learning.methods import REAL
from benchmarks.learning.real.budget import Budget
from benchmarks.learning.real.cells import Cache, Plan, digest_of
from benchmarks.learning.real.families import Family
from training.tasks.problem import Problem
from training.tasks.splits import Split

BUDGET = Budget(updates=2, problems=2, test=3, tokens=24, rate=1e-3)


class Letters(Family):
    """An answer is right when it holds a comma; problems of a seed and a split are those of no other."""

    def problems(self, split: Split, count: int, seed: int) -> list[Problem]:
        grader = {"type": "string_check", "operation": "like", "reference": ","}
        return [Problem(f"{split} {seed} {number}", ",", grader, self.name, 0) for number in range(count)]


def plan(base: Path, *methods: str, seeds: tuple[int, ...] = (1, 2)) -> Plan:
    families = (Letters("one", ()), Letters("other", ()))
    return Plan("tiny", str(base), tuple(REAL[name] for name in methods), families, seeds, replace(BUDGET))


def cache_of(directory: Path, made: Plan) -> Cache:
    return Cache(directory, digest_of(made.base))
