"""Both sides asked about every variant, and where they differ, or where one differs from what a reader would say.

A score below 1 is no right answer here: partial scores are the package's own business. Leaves out printing.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.graders.pairings import Pairing, variants
from training.graders.parse import parse_grader
from training.graders.verdict import Graded
from training.tasks.gym import PREFIX, make_problems, parse_source
from training.tasks.problem import Problem
from training.tasks.splits import Split

GRADING_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Case:
    """One reply and what was said of it."""

    dataset: str
    grader: str  # ours, as shown
    variant: str
    reference: str
    reply: str
    right: bool  # as a reader would say
    ours: float | None  # None: no grade, or failed
    theirs: float | None

    @property
    def ours_errs(self) -> bool:
        """Whether our grader differs from a reader."""
        return self.ours is None or (self.ours == 1.0) != self.right

    @property
    def theirs_errs(self) -> bool:
        """Whether the package's scorer differs from a reader."""
        return self.theirs is None or (self.theirs == 1.0) != self.right


def compare(pairings: Iterable[Pairing], size: int, seed: int = 0) -> Iterator[Case]:
    """Ask both sides about `size` problems of each dataset."""
    for pairing in pairings:
        keys = f"size={size},seed={seed}" + (f",{pairing.config}" if pairing.config else "")
        for problem in make_problems(parse_source(f"{PREFIX}{pairing.dataset}:{keys}", Split.TEST)):
            yield from cases(pairing, problem)


def cases(pairing: Pairing, problem: Problem) -> Iterator[Case]:
    """Ask both sides about every variant of the answer to one problem."""
    for variant in variants(problem, pairing.kind):
        theirs = value(problem.grader, variant.text)
        for name, spec in pairing.ours.items():
            ours = value(spec(problem), variant.text)
            yield Case(pairing.dataset, name, variant.name, problem.answer, variant.text, variant.right, ours, theirs)


def value(spec: Mapping[str, Any], text: str) -> float | None:
    """Grade a reply; None where that gave no grade."""
    verdict = parse_grader(spec).grade(text, GRADING_SECONDS)
    return verdict.value if isinstance(verdict, Graded) else None
