"""An evaluation: every problem greedily once and sampled n times, graded, and scored.

Problems are answered in portions, so what is held is texts and marks, never the rollouts of a whole data set. Leaves
out where problems come from (`sources`) and how scores are shown (`score_table`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from training.models.policy import Policy
from training.tasks.problem import Problem
from worker.offline.answers import Asking, Mark, answer, mark
from worker.offline.scores import Marked

PORTION: Final = 64  # problems answered by one engine
Progress = Callable[[int], None]  # told how many more answers are done


@dataclass(frozen=True, slots=True)
class Record:
    """One problem, its answers and their marks."""

    problem: Problem
    greedy: tuple[str, Mark] | None
    sampled: tuple[tuple[str, Mark], ...]

    @property
    def marked(self) -> Marked:
        """The marks alone."""
        return Marked(
            self.problem.family, self.greedy[1] if self.greedy else None, tuple(mark for _, mark in self.sampled)
        )


def evaluate(
    policy: Policy,
    problems: Sequence[Problem],
    asking: Asking,
    *,
    greedy: bool = True,
    deadline_s: float = 10.0,
    progress: Progress = lambda _: None,
) -> list[Record]:
    """Answer and grade every problem.

    Args:
        policy: its model is read, not changed.
        problems: any number.
        asking: of the sampled answers; the greedy one differs in its temperature, 0.
        greedy: whether to ask for the greedy answer too.
        deadline_s: seconds a grader has for one answer.
        progress: told after each answer; what it raises ends the evaluation.

    Raises:
        BadRequest: a problem does not fit the model.

    """
    once = replace(asking, sampling=replace(asking.sampling, temperature=0.0), choices=1)
    records: list[Record] = []
    for portion in _portions(problems):
        first = asking.sampling.seed + len(records)
        sampled = _marked(policy, portion, asking, first, deadline_s, progress)
        best = _marked(policy, portion, once, first, deadline_s, progress) if greedy else [None] * len(portion)
        records += [
            Record(problem, one[0] if one else None, tuple(many))
            for problem, one, many in zip(portion, best, sampled, strict=True)
        ]
    return records


def _portions(problems: Sequence[Problem]) -> Iterator[list[Problem]]:
    for start in range(0, len(problems), PORTION):
        yield list(problems[start : start + PORTION])


def _marked(
    policy: Policy, problems: Sequence[Problem], asking: Asking, seed: int, deadline_s: float, progress: Progress
) -> list[list[tuple[str, Mark]]]:
    """Answer and grade one portion."""
    told = 0

    def tell(done: int) -> None:
        nonlocal told
        progress(done - told)
        told = done

    asked = replace(asking, sampling=replace(asking.sampling, seed=seed))
    answers = answer(policy, problems, asked, tell)
    texts = [[one.text for one in finished] for finished in answers]
    return [
        list(zip(said, mark(problem, said, deadline_s), strict=True))
        for problem, said in zip(problems, texts, strict=True)
    ]
