"""The exam: the test problems, asked once each over HTTP before and after, and never learned from.

The answers are sampled with the server's own settings, latent steps included; the seeds are the same both times.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from openai import AsyncOpenAI

from app.demo.asking import ask
from app.demo.tally import Tally
from app.demo.users import GRADER_DEADLINE_S
from training.graders.parse import parse_grader
from training.graders.verdict import Graded
from training.statistics.intervals import wilson
from training.tasks.problem import Problem

AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Mark:
    """How an exam went."""

    correct: int
    total: int  # > 0

    @property
    def accuracy(self) -> float:
        """Share of problems answered right."""
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the accuracy."""
        return wilson(self.correct, self.total)


async def sit_exam(
    client: AsyncOpenAI, problems: Sequence[Problem], tally: Tally, answered: Callable[[], None] = lambda: None
) -> Mark:
    """Ask every problem once; a failed request is a wrong answer, and counted as failed too.

    Args:
        client: of the service.
        problems: at least one.
        tally: counts what was asked, and what failed.
        answered: called after each.

    """
    turnstile = asyncio.Semaphore(AT_ONCE)

    async def one(index: int, problem: Problem) -> bool:
        async with turnstile:
            answers = await ask(client, problem.prompt, tally, choices=1, seed=index)
        answered()
        if not answers:
            return False
        verdict = parse_grader(dict(problem.grader)).grade(answers[0].text, GRADER_DEADLINE_S)
        return isinstance(verdict, Graded) and verdict.value == 1.0

    right = await asyncio.gather(*(one(index, problem) for index, problem in enumerate(problems)))
    return Mark(sum(right), len(problems))
