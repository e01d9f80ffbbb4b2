"""Which problems the bench asks: every family, at the difficulties whose thinking takes the teacher's four thoughts.

Paths are asked at their hardest alone; lessons show easier ones too.
"""

from collections.abc import Mapping
from types import MappingProxyType

from training.bench_model.teacher import THOUGHTS
from training.tasks.families import FAMILIES, generate
from training.tasks.problem import Problem
from training.tasks.splits import Split

TAUGHT: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {name: (THOUGHTS,) if name == "chained_arithmetic" else family.difficulties for name, family in FAMILIES.items()}
)
ASKED: Mapping[str, tuple[int, ...]] = MappingProxyType({**TAUGHT, "graph_path": (3,), "reachability": (3,)})


def bench_problems(family: str, split: Split, count: int, *, seed: int) -> list[Problem]:
    """Generate distinct problems of one family and split, the same for the same arguments.

    Raises:
        ValueError: the family is unknown or has too few problems.

    """
    return generate(family, split, count, seed=seed, difficulties=ASKED[family])
