"""The algorithm, read aloud: answer, grade, compare, learn. LEPO (arXiv:2604.17892), section 3.

`lepo train` and the benches call this once per update. Leaves out each of its steps: how an answer is drawn
(`training.sample`, in earnest the engine), what grades it (`training.graders`), what it is compared with
(`training.advantage`), and the step itself (`training.update` on `training.objective`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

from training.advantage import group_advantages
from training.rollout import Rollout


class Answered(Protocol):
    """An answer."""

    @property
    def rollout(self) -> Rollout:
        """How it was drawn: the latent steps, then the tokens."""


class Marked(Protocol):
    """What a grader said of one."""

    @property
    def value(self) -> float | None:
        """The reward; None: nobody knows, and it teaches nothing."""


P = TypeVar("P")
R = TypeVar("R")
A = TypeVar("A", bound=Answered)
M = TypeVar("M", bound=Marked)
Group = tuple[Sequence[A], Sequence[M]]  # the answers to one problem, and their marks


@dataclass(frozen=True, slots=True, eq=False)
class Round(Generic[A, M, R]):
    """What one update was made of."""

    groups: list[Group[A, M]]  # by problem
    learned: R | None  # what `learn` gave; None: there was nothing to learn from


def one_round(
    problems: Sequence[P],
    sample: Callable[[Sequence[P]], Sequence[Sequence[A]]],
    grade: Callable[[P, Sequence[A]], Sequence[M]],
    learn: Callable[[Sequence[A], Sequence[float]], R],
    *,
    keeps: Callable[[A], bool] = lambda _: True,
    divided: bool = True,
    together: Callable[[Callable[[], list[Group[A, M]]]], list[Group[A, M]]] = lambda work: work(),
) -> Round[A, M, R]:
    """Make the policy better by one on-policy update.

    Args:
        problems: of this update; this process's part of them.
        sample: answers each problem G times: L latent steps, then tokens.
        grade: marks the answers to a problem.
        learn: takes the step, given answers and the advantage of each.
        keeps: whether a graded answer may teach.
        divided: whether advantages are divided by their spread (Dr. GRPO's are not).
        together: does the work of this process, and gives that of all processes.

    """

    def ask() -> list[Group[A, M]]:
        groups = sample(problems)
        return [(group, grade(problem, group)) for problem, group in zip(problems, groups, strict=True)]

    groups = together(ask)
    answers: list[A] = []
    advantages: list[float] = []
    for group, marks in groups:
        graded = [(one, mark.value) for one, mark in zip(group, marks, strict=True) if keeps(one)]
        kept = [(one, value) for one, value in graded if value is not None]
        answers += [one for one, _ in kept]
        advantages += compared([value for _, value in kept], divided=divided)
    return Round(groups, learn(answers, advantages) if answers else None)


def compared(rewards: Sequence[float], *, divided: bool = True) -> list[float]:
    """Say how much better each answer was than the others to its problem: 0 for one that has no others."""
    if len(rewards) < 2:
        return [0.0] * len(rewards)
    advantages: list[float] = group_advantages(torch.tensor(rewards, dtype=torch.float64), divided=divided).tolist()
    return advantages
