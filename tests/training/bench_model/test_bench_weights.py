"""The committed base: stock files, small, wrong often enough to learn and right often enough to be rewarded."""

import pytest
import torch

from training.bench_model.location import WEIGHTS
from training.bench_model.measurement import ANSWER_BUDGET, TRIES
from training.bench_model.problems import bench_problems
from training.bench_model.teacher import THOUGHTS
from training.demo_model.measurement import solve
from training.models.policy import Policy, load_policy
from training.sampling import Sampling
from training.tasks.families import FAMILIES
from training.tasks.splits import Split


@pytest.fixture(scope="module")
def base() -> Policy:
    return load_policy(WEIGHTS, version=0, dtype=torch.float32, device="cpu")


def test_it_is_small_and_safe_to_open(base: Policy) -> None:
    files = {path.name for path in WEIGHTS.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= files
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in files)
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) < 3_000_000
    assert all(weight.isfinite().all() for weight in base.model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_eight_tries_solve_much_more_than_one(base: Policy, family: str) -> None:
    problems = bench_problems(family, Split.TEST, 120, seed=0)
    tries = solve(base.model, base.tokenizer, problems, Sampling(latent_length=0), TRIES, budget=ANSWER_BUDGET)
    average = sum(map(sum, tries)) / len(tries) / TRIES
    assert 0.2 <= average <= 0.6
    assert sum(map(any, tries)) / len(tries) >= 1.4 * average


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("latent_length", [0, 4])
def test_greedy_answers_leave_room(base: Policy, family: str, latent_length: int) -> None:
    problems = bench_problems(family, Split.TEST, 400, seed=0)
    sampling = Sampling(latent_length=latent_length, temperature=0.0)
    [right] = zip(*solve(base.model, base.tokenizer, problems, sampling, 1, budget=ANSWER_BUDGET), strict=True)
    assert 0.2 <= sum(right) / len(right) <= 0.6


def test_latent_steps_are_within_what_it_knows_and_find_more_where_breadth_pays(base: Policy) -> None:
    shares: dict[str, tuple[float, float]] = {}
    for family in FAMILIES:
        problems = bench_problems(family, Split.TEST, 120, seed=0)
        words, mixtures = (
            solve(base.model, base.tokenizer, problems, Sampling(latent_length=length), TRIES, budget=ANSWER_BUDGET)
            for length in (0, THOUGHTS)
        )
        shares[family] = average(words), average(mixtures)
    assert all(by_mixtures > by_words - 0.06 for by_words, by_mixtures in shares.values())
    for family in ("graph_path", "reachability"):
        by_words, by_mixtures = shares[family]
        assert by_mixtures > by_words + 0.05


def average(tries: list[list[bool]]) -> float:
    return sum(sum(each) for each in tries) / len(tries) / TRIES
