"""The bench as a whole, made small: runs, cache, choice of candidates, statistics, the report, its page and picture."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.learning.command import Job, best, key, results
from benchmarks.learning.loop import Budget, run
from benchmarks.learning.methods import TRIED, Candidate
from benchmarks.learning.page import markdown
from benchmarks.learning.picture import draw
from benchmarks.learning.report import headline, summarised
from benchmarks.learning.statistics import difference
from training.bench_model.location import WEIGHTS
from training.models.policy import Policy, fingerprint, load_policy
from training.tasks.families import FAMILIES

TINY = Budget(updates=2, problems=2, test=3, validation=2, look_every=2)
GRPO = TRIED["grpo"][0]


def fresh() -> Policy:
    return load_policy(WEIGHTS, version=0, dtype=torch.float32, device="cpu")


@pytest.mark.parametrize("name", TRIED)
def test_every_method_learns_and_is_measured(name: str, tmp_path: Path) -> None:
    policy, base = fresh(), fresh()
    before = fingerprint(base.model)
    result = run(policy, base, TRIED[name][0], 1, TINY)
    assert fingerprint(policy.model) != before == fingerprint(base.model)
    assert [point["rollouts"] for point in result["curve"]] == [0, 32 * len(FAMILIES)]
    assert result["curve"][0]["kl"] == pytest.approx(0.0, abs=1e-6) != result["curve"][1]["kl"]
    assert all(len(of["latent"]["right"]) == 3 for of in result["test"].values())
    runs = [{**result, "method": "grpo"}, {**result, "method": "lepo"}]
    setup = dict.fromkeys(("preset", "seeds", "updates", "problems", "test"), 1)
    report = summarised([{**result, "method": "grpo"}], [result], runs, setup, {"alone": True})
    gap = report["methods"]["lepo"]["test"]["mean"]["token"]["avg@8 minus grpo"]
    assert gap == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert "| mean | lepo | latent |" in markdown(None, report)
    draw(tmp_path / "picture.png", report)
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_every_method_has_as_many_trials_and_all_of_them_differ() -> None:
    assert {len(tried) for tried in TRIED.values()} == {4}
    every = [one for tried in TRIED.values() for one in tried]
    assert len(set(every)) == len(every)


def test_a_run_is_kept_and_not_run_again(tmp_path: Path) -> None:
    job = Job(GRPO, 1, TINY)
    (tmp_path / f"grpo-1-{key(job)}.json").write_text('{"kept": 1}')
    assert results([job], tmp_path, "runs", 1) == [{"kept": 1}]
    others = [Job(replace(GRPO, rate=0.5), 1, TINY), Job(TRIED["lepo"][0], 1, TINY), Job(GRPO, 2, TINY)]
    assert len({key(one) for one in (job, *others)}) == 4


def test_the_best_trial_of_each_method_is_chosen() -> None:
    lepo = TRIED["lepo"]
    candidates: list[Candidate] = [GRPO, replace(GRPO, rate=0.5), lepo[0], lepo[1]]
    trials: list[dict[str, Any]] = [{"curve": [{"average": one}]} for one in (0.4, 0.5, 0.6, 0.6)]
    assert best(candidates, trials) == [candidates[1], candidates[2]]


def test_the_interval_holds_the_spread_of_seeds_and_pairs_within_families() -> None:
    base = [torch.zeros(2, 50), torch.zeros(2, 10)]
    same = difference([one + 0.25 for one in base], base)
    assert (same.mean, same.low, same.high) == (0.25, 0.25, 0.25)
    apart = torch.tensor([[0.5], [-0.5]])
    split = difference([one + apart for one in base], base)
    assert split.mean == 0
    assert (split.low, split.high) == (-0.5, 0.5)  # a seed is drawn for both families at once
    families = difference([base[0] + 1.0, base[1]], base)
    assert (families.mean, families.low) == (0.5, 0.5)  # families weigh the same, whatever their number of problems
    with pytest.raises(ValueError, match="not paired"):
        difference(base, [base[0][:, :3], base[1]])


def test_the_headline_is_the_lepo_method_that_validation_prefers_whatever_test_says() -> None:
    def cell(low: float, average: float) -> dict[str, Any]:
        gap = {"mean": low, "low": low, "high": low}
        return {"latent": {"avg@8": average, "avg@8 minus grpo": gap, "pass@8 minus grpo": gap}}

    found = {
        name: {
            "test": {"a": cell(low, mean), "b": cell(-1.0, mean), "mean": cell(low, mean)},
            "curve": [{"average": 0.9}, {"average": validation}],
        }
        for name, low, mean, validation in (
            ("grpo", 0.0, 0.9, 0.9),
            ("lepo", 0.1, 0.7, 0.4),
            ("lepo_averaged", 0.2, 0.6, 0.5),
        )
    }
    told = headline(found, ["a", "b"])
    assert told == {
        "lepo_method": "lepo_averaged",
        "lepo_families_above_grpo": 1,
        "lepo_mean_avg8_low": 0.2,
        "lepo_mean_pass8_low": 0.2,
    }
