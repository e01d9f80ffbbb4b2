"""The bench as a whole, made small: runs, cache, choice of rates, statistics and the report."""

from pathlib import Path

import pytest
import torch

from benchmarks.learning.command import Job, best_rates, key, results
from benchmarks.learning.loop import Budget, run
from benchmarks.learning.methods import METHODS, Method
from benchmarks.learning.report import markdown, summarised
from benchmarks.learning.statistics import difference
from training.bench_model.location import WEIGHTS
from training.policy import fingerprint, load_policy

TINY = Budget(updates=2, problems=2, test=3, validation=2, look_every=2)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_method_learns_and_is_measured(method: Method) -> None:
    policy = load_policy(WEIGHTS, version=0, dtype=torch.float32, device="cpu")
    before = fingerprint(policy.model)
    result = run(policy, method, 1, 3e-4, TINY)
    assert fingerprint(policy.model) != before
    assert [point["rollouts"] for point in result["curve"]] == [96]
    assert all(len(of["latent"]["right"]) == 3 for of in result["test"].values())
    base = {**result, "curve": []}
    grpo = {**result, "method": "grpo"}
    trial = [{**result, "seed": 1000}]
    setup = dict.fromkeys(("preset", "seeds", "updates", "problems", "test"), 1)
    report = summarised(base, trial, [grpo, {**result, "method": "other"}], setup)
    assert report["methods"]["other"]["test"]["mean"]["latent"]["avg@8 minus grpo"]["mean"] == 0
    assert "other, avg@8: no difference to GRPO shown on any family." in markdown(report)


def test_a_run_is_kept_and_not_run_again(tmp_path: Path) -> None:
    job = Job("grpo", 1, 3e-4, TINY)
    (tmp_path / f"grpo-1-{key(job)}.json").write_text('{"kept": 1}')
    assert results([job], tmp_path, "runs") == [{"kept": 1}]
    assert key(job) != key(Job("grpo", 1, 1e-3, TINY)) != key(Job("lepo", 1, 1e-3, TINY))


def test_the_better_rate_is_chosen_for_each_method() -> None:
    trials = [("a", 1.0, 0.4), ("a", 2.0, 0.5), ("b", 1.0, 0.6), ("b", 2.0, 0.1)]
    rows = [{"method": name, "rate": rate, "curve": [{"average": average}]} for name, rate, average in trials]
    assert best_rates(rows) == {"a": 2.0, "b": 1.0}


def test_the_interval_holds_the_spread_of_seeds() -> None:
    base_SN = torch.zeros(2, 50)
    same = difference(base_SN + 0.25, base_SN)
    assert (same.mean, same.low, same.high) == (0.25, 0.25, 0.25)
    split = difference(base_SN + torch.tensor([[0.5], [-0.5]]), base_SN)
    assert split.mean == 0
    assert (split.low, split.high) == (-0.5, 0.5)
    with pytest.raises(ValueError, match="not paired"):
        difference(base_SN, base_SN[:, :3])
