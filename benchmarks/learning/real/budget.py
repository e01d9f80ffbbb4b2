"""What every cell may spend, and what is run: plain records, so that naming cells loads no model."""

from dataclasses import dataclass, replace

from benchmarks.learning.methods import Method
from benchmarks.learning.real.families import Family


@dataclass(frozen=True, slots=True)
class Budget:
    """What every cell may spend; the same for all methods.

    Example: `Budget(updates=8, problems=16, test=48)`.
    """

    updates: int  # optimizer steps
    problems: int  # per update, each met once
    test: int  # test problems
    group: int = 8  # answers per problem, of updates and of exams
    tokens: int = 48  # most of an answer; latent steps come on top
    rate: float = 3e-5  # of Adam, constant
    slots: int = 32  # answers decoded together


@dataclass(frozen=True, slots=True)
class Cell:
    """What is run."""

    base: str  # any name that `--model` takes
    method: Method
    family: Family
    seed: int  # of problems and noise; 0: the base's exam
    budget: Budget

    @property
    def of_base(self) -> bool:
        """Whether nothing is learned."""
        return self.seed == 0


def exam_of(base: str, method: Method, family: Family, budget: Budget) -> Cell:
    """Name the base's exam by a method's inference; methods that infer alike share one."""
    inference = replace(method, learns="tokens", latent_scale=1.0, name=inference_of(method))
    asked = replace(budget, updates=0, problems=0)
    return Cell(base, inference, family, 0, asked)


def inference_of(method: Method) -> str:
    """Name how a method infers."""
    if not method.latent_length:
        return "token"
    return f"latent{method.latent_length}-{method.noise}-tau{method.tau:g}-draws{method.draws}-{method.placement}"
