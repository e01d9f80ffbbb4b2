"""The bench of late grades, small: it learns from every answer once, late ones too, and its report is right."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.offpolicy.command import Preset, measure
from benchmarks.offpolicy.conditions import CONDITIONS, DEFAULT_CONDITION, Condition, Plan
from benchmarks.offpolicy.report import by_lag, compared, gains
from benchmarks.offpolicy.trial import Trial

SMALL = Plan(updates=3, problems=2, choices=4, test=4, tries=2, look_every=2)


def tried(condition: Condition, seed: int = 1) -> dict[str, Any]:
    return Trial(condition, SMALL, seed).run(lambda _: None)


def test_every_answer_is_learned_from_once_however_late() -> None:
    for name, lag in (("clean", 0.0), (DEFAULT_CONDITION, 3.0)):
        found = tried(replace(CONDITIONS[name], lag=lag))
        assert sum(one["learned"] for one in found["updates"]) == 3 * 2 * 4
        assert len(found["updates"]) == 3
        assert (max(one["age"] for one in found["updates"]) > 0) is (lag > 0)
        assert found["skipped"] == 0


def test_the_bounds_leave_answers_out() -> None:
    late = replace(CONDITIONS[DEFAULT_CONDITION], lag=3.0)
    skipped = {
        name: tried(condition)["skipped"]
        for name, condition in {
            "nats": replace(late, bound=1e-4),
            "versions": replace(late, most_versions=0),
        }.items()
    }
    assert min(skipped.values()) > 0


def test_the_report_measures_shares_of_the_clean_gain() -> None:
    half = torch.tensor([[0.5, 0.5], [0.5, 0.5]], dtype=torch.float64)
    table = compared({"clean": half, "late": half / 2, "worse": -half}, "clean")
    assert table["late"]["share"] == 0.5
    assert table["late"]["share_interval"] == [0.5, 0.5]
    assert table["worse"]["gain"] == -0.5
    runs = [{"right_before": [0, 2], "right_after": [4, 2]}, {"right_before": [1, 1], "right_after": [1, 3]}]
    assert gains(runs, 4).tolist() == [[1.0, 0.0], [0.0, 0.5]]


def test_divergence_is_told_by_lag() -> None:
    seen = [{"nats": one / 100, "token_nats": 0.0, "latent_nats": 0.1, "weight": 1.0} for one in range(101)]
    table = by_lag([{"lags": {"0": [], "5": seen}}])
    assert list(table) == ["5"]
    assert table["5"]["p50"] == pytest.approx(0.5)
    assert table["5"]["most"] == 1.0


def test_the_bench_runs_and_goes_on_from_its_files(tmp_path: Path) -> None:
    preset = Preset(seeds=1, updates=3, conditions=("late-versions",))
    report = measure(preset, SMALL, tmp_path)
    assert set(report["conditions"]) == {"clean", DEFAULT_CONDITION, "late-versions"}
    assert report["divergence_by_lag"]["0"]["most"] < 1e-4 < report["divergence_by_lag"]["2"]["most"]
    files = {one: one.stat().st_mtime_ns for one in tmp_path.iterdir()}
    assert measure(preset, SMALL, tmp_path)["conditions"] == report["conditions"]
    assert {one: one.stat().st_mtime_ns for one in tmp_path.iterdir()} == files
