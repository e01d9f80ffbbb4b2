"""What the bench model solves per family: greedy, on average, and in one of eight tries, each with its interval.

Leaves out drawing the answers (see `training.demo_model.measurement`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import pstdev

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.bench_model.problems import bench_problems
from training.bench_model.teacher import THOUGHTS
from training.demo_model.measurement import solve
from training.sampling import Sampling
from training.tasks.families import FAMILIES
from training.tasks.splits import Split

TRIES = 8  # answers per problem of a sampled figure
LATENT_LENGTHS = (0, THOUGHTS)  # measured
ANSWER_BUDGET = THOUGHTS + 8  # tokens: the longest answer takes the marker, a walk of five nodes, and an end


@dataclass(frozen=True)
class Share:
    """A mean over problems with its 95% interval."""

    mean: float  # in [0, 1]
    margin: float  # half the width of the interval, by the normal approximation

    def __str__(self) -> str:
        """Write it in percent. Example: '41.2% ± 3.1'."""
        return f"{self.mean:.1%} ± {100 * self.margin:.1f}"


@dataclass(frozen=True)
class Line:
    """What one family's test problems came to at one latent length."""

    family: str
    latent_length: int  # latent steps before the text; 0 is token inference
    greedy: Share  # right at temperature 0
    average: Share  # of sampled answers, right (avg@8)
    best: Share  # of problems, right in one of TRIES sampled answers (pass@8)


def share(values: Sequence[float]) -> Share:
    """Return the mean over problems and its interval."""
    return Share(sum(values) / len(values), 1.96 * pstdev(values) / sqrt(len(values)))


def measure_families(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, split: Split, size: int
) -> Iterator[Line]:
    """Ask `size` problems of each family of a split at each latent length; a line is given as soon as it is known."""
    for family in FAMILIES:
        problems = bench_problems(family, split, size, seed=0)
        for length in LATENT_LENGTHS:
            cold, warm = Sampling(latent_length=length, temperature=0.0), Sampling(latent_length=length)
            greedy = solve(model, tokenizer, problems, cold, 1, budget=ANSWER_BUDGET)
            sampled = solve(model, tokenizer, problems, warm, TRIES, budget=ANSWER_BUDGET)
            yield Line(
                family,
                length,
                share([float(tries[0]) for tries in greedy]),
                share([sum(tries) / TRIES for tries in sampled]),
                share([float(any(tries)) for tries in sampled]),
            )
