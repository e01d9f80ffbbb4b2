"""The data of a run: parts that never meet, an order that only the seed decides, noise that never repeats."""

from collections import Counter

import pytest

from app.errors import BadRequest
from training.tasks.problem import Problem
from worker.offline.problem_set import batch, noise_seeds, split


def problems(count: int) -> list[Problem]:
    return [Problem(f"question {index}", "a", {}, "", 0) for index in range(count)]


def test_a_tenth_is_set_aside_and_never_meets_the_rest() -> None:
    again = Problem("  QUESTION 3", "a", {}, "", 0)
    lessons = split([*problems(50), again], seed=1)
    assert (len(lessons.train), len(lessons.validation)) == (45, 5)
    assert not {one.prompt for one in lessons.train} & {one.prompt for one in lessons.validation}
    assert split([*problems(50), again], seed=1) == lessons
    assert split([*problems(50), again], seed=2) != lessons
    assert len(split(problems(5000), seed=0).validation) == 200


def test_one_problem_is_not_enough() -> None:
    with pytest.raises(BadRequest, match="give more, or --validation"):
        split(problems(1), seed=0)


def test_a_pass_takes_every_problem_once_and_the_next_in_another_order() -> None:
    order = [one.prompt for update in range(8) for one in batch(problems(10), 5, update, seed=0)]
    passes = [order[start : start + 10] for start in range(0, 40, 10)]
    assert all(Counter(part) == Counter(one.prompt for one in problems(10)) for part in passes)
    assert len({tuple(part) for part in passes}) == 4
    assert order[:10] != [one.prompt for update in range(2) for one in batch(problems(10), 5, update, seed=1)]


def test_no_two_updates_or_runs_share_noise() -> None:
    seeds = [seed for run in range(3) for update in range(50) for seed in noise_seeds(16, update, run)]
    assert len(set(seeds)) == len(seeds)
    assert max(noise_seeds(16, 10**6, 1000)) < 2**63


def test_the_digest_knows_every_problem() -> None:
    whole = split(problems(50), seed=1)
    assert whole.digest == split(problems(50), seed=1).digest
    assert whole.digest != split(problems(51), seed=1).digest
