"""Simulated users: each asks, reads, and is graded in one of two ways.

Every second question names a grader and leaves the verdict to the server; for the others the user judges the answers
and posts the grades.
"""

import asyncio
import itertools
import random
from collections.abc import Sequence

from openai import AsyncOpenAI

from app.client import AsyncLepo, LepoRefused, LepoUnreachable
from app.demo.asking import Answer, ask
from app.demo.tally import Tally
from training.graders.parse import parse_grader
from training.graders.verdict import Graded
from training.tasks.problem import Problem

GRADER_DEADLINE_S = 5.0


async def be_a_user(
    name: int,
    client: AsyncOpenAI,
    lepo: AsyncLepo,
    problems: Sequence[Problem],
    tally: Tally,
    stop: asyncio.Event,
    *,
    choices: int,
    think_s: float,
) -> None:
    """Ask problem after problem until `stop` is set; a question under way is finished and graded."""
    rng = random.Random(name)  # noqa: S311  a simulation
    for turn in itertools.count():
        if stop.is_set():
            return
        problem = rng.choice(problems)
        served = turn % 2 == 0
        answers = await ask(
            client,
            problem.prompt,
            tally,
            choices=choices,
            seed=rng.randrange(2**31),
            grader=problem.grader if served else None,
            task=problem.family,
        )
        if not served:
            await asyncio.gather(*(grade(lepo, answer, problem, tally, user=name) for answer in answers))
        await asyncio.sleep(think_s * rng.uniform(0.5, 1.5))


async def grade(lepo: AsyncLepo, answer: Answer, problem: Problem, tally: Tally, *, user: int) -> None:
    """Judge one answer and post the grade."""
    verdict = parse_grader(dict(problem.grader)).grade(answer.text, GRADER_DEADLINE_S)
    if not isinstance(verdict, Graded):
        tally.fail(f"grade: the grader said {verdict}")
        return
    try:
        await lepo.grade(answer.interaction_id, verdict.value, grader=f"user-{user}")
    except (LepoRefused, LepoUnreachable) as error:
        tally.fail(f"grade: {error}")
    else:
        tally.client_grades += 1
