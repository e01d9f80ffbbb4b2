"""One cell: a method learns one family from the real base with one seed, and is examined by both inferences.

The rewards of the training batches are a learning curve that costs nothing: each problem is met once. A cell of seed 0
learns nothing: it is the base's exam, by one way of inference. Leaves out how a method answers and learns (`ways`),
which cells there are and their files (`cells`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Final

import torch

from benchmarks.learning.methods import Method
from benchmarks.learning.real.budget import Cell
from benchmarks.learning.real.ways import ByEngine, Said, Way, way_of
from training.loop import one_round
from training.models.policy import Policy
from training.tasks.problem import Problem
from training.tasks.splits import Split
from worker.offline.answers import Mark, mark
from worker.offline.models import open_model
from worker.offline.problem_set import noise_seeds

Tell = Callable[[str], None]
GRADING_SECONDS: Final = 10.0
PORTION: Final = 64  # problems of an exam that are answered at a time
TOKENS: Final = Method("token", 0)


def run(cell: Cell, tell: Tell) -> dict[str, Any]:
    """Run a cell; about 5 GB for 135M parameters."""
    torch.set_num_threads(1)
    started, spent = time.perf_counter(), time.process_time()
    policy = open_model(cell.base, version=0, dtype="float32", device="cpu")
    way = way_of(cell.method, cell.budget)
    updates = [] if cell.of_base else learned(policy, way, cell, tell)
    cpu, wall = time.process_time() - spent, time.perf_counter() - started
    return {
        "method": cell.method.name,
        "family": cell.family.name,
        "seed": cell.seed,
        "settings": asdict(cell),
        "updates": updates,
        "cpu_seconds": cpu,  # of learning
        "wall_seconds": wall,
        "test": examine(policy, way, cell, tell),
    }


def learned(policy: Policy, way: Way, cell: Cell, tell: Tell) -> list[dict[str, Any]]:
    """Take every update; returns what each was made of."""
    budget = cell.budget
    pool = cell.family.problems(Split.TRAIN, budget.updates * budget.problems, cell.seed)
    made = []
    for update in range(budget.updates):
        part = pool[update * budget.problems : (update + 1) * budget.problems]
        seeds = noise_seeds(len(part), update, cell.seed)
        made.append(updated(replace(policy, version=update), way, part, seeds))
        tell(f"update {update + 1}/{budget.updates}, reward {made[-1]['reward']:.3f}")
    return made


def updated(policy: Policy, way: Way, problems: Sequence[Problem], seeds: Sequence[int]) -> dict[str, Any]:
    """Take one on-policy update on problems that were never asked before."""
    seconds: dict[str, float] = {}

    def timed(part: str, work: Callable[..., Any], *given: Any) -> Any:
        begun = time.process_time()
        done = work(*given)
        seconds[part] = time.process_time() - begun
        return done

    done = one_round(
        problems,
        lambda asked: timed("answering", way.answer, policy, asked, seeds),
        graded,
        partial(timed, "learning", way.learn, policy),
    )
    groups, marks = [answers for answers, _ in done.groups], [of for _, of in done.groups]
    distinct = [len({one.text for one in group}) for group in groups]
    solved = shares(marks)
    return {
        "answers": sum(map(len, groups)),
        "solved": solved,
        "reward": sum(solved) / len(solved),
        "signal_share": sum(0 < one < 1 for one in solved) / len(solved),
        "distinct_answers": sum(distinct) / len(distinct),
        "cpu_seconds": seconds,
        **(done.learned or {}),
    }


def examine(policy: Policy, way: Way, cell: Cell, tell: Tell) -> dict[str, list[int]]:
    """Count right answers to each test problem: by the method's own inference, and by tokens alone.

    The noise belongs to the problems, so it is the same before learning and after, and for all methods.
    """
    problems = cell.family.problems(Split.TEST, cell.budget.test, 0)
    found = {"own": right(policy, problems, way, tell)}
    if not cell.method.latent_length:
        found["token"] = found["own"]
    elif not cell.of_base:
        found["token"] = right(policy, problems, ByEngine(TOKENS, cell.budget), tell)
    return found


def right(policy: Policy, problems: Sequence[Problem], way: Way, tell: Tell) -> list[int]:
    """Count the right answers to each problem."""
    counts: list[int] = []
    for first in range(0, len(problems), PORTION):
        part = problems[first : first + PORTION]
        seeds = range(first, first + len(part))
        for problem, answers in zip(part, way.answer(policy, part, seeds), strict=True):
            counts.append(round(shares([graded(problem, answers)])[0] * len(answers)))
        tell(f"exam {len(counts)}/{len(problems)}")
    return counts


def graded(problem: Problem, answers: Sequence[Said]) -> list[Mark]:
    """Mark the answers to a problem."""
    return mark(problem, [one.text for one in answers], GRADING_SECONDS)


def shares(marks: Sequence[Sequence[Mark]]) -> list[float]:
    """Share of right answers by problem; an answer without a grade would be an error of the bench, never a zero."""
    for one in (one for of in marks for one in of):
        if one.value is None:
            raise RuntimeError(f"a grader gave no grade: {one.detail}")
    return [sum(one.right for one in of) / len(of) for of in marks]
