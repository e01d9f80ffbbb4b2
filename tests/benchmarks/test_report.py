"""Medians, ratios of neighbours, percentiles and bounds: the arithmetic that every figure goes through."""

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from benchmarks.report import Bound, find, finish, judged
from benchmarks.timing import Series, machine, percentiles, ratio, side_by_side


def test_peers_take_turns_and_the_order_turns_round() -> None:
    ran: list[str] = []

    def run(name: str, value: float) -> float:
        ran.append(name)
        return value

    series = side_by_side({"a": lambda r: run("a", r + 1.0), "b": lambda r: run("b", 10.0)}, 3, lambda line: None)
    assert ran == ["a", "b", "b", "a", "a", "b"]
    assert series["a"].values == (1.0, 2.0, 3.0)


def test_a_ratio_pairs_neighbours() -> None:
    """Both peers slow down in the second repeat: the ratio does not notice, a ratio of means would."""
    fast, slow = Series((10.0, 1.0, 10.0)), Series((5.0, 0.5, 5.0))
    assert ratio(fast, slow).values == (2.0, 2.0, 2.0)
    assert Series((3.0, 1.0, 2.0)).report() == {"median": 2.0, "min": 1.0, "max": 3.0, "values": [3.0, 1.0, 2.0]}


def test_percentiles_are_never_below_the_true_ones() -> None:
    values = [float(value) for value in range(1, 101)]
    assert percentiles(values) == {"p50": 50.0, "p90": 90.0, "p99": 99.0, "max": 100.0}
    assert percentiles([1.0, 5.0])["p99"] == 5.0


def test_a_bound_is_judged() -> None:
    assert Bound("x", 1.8, "at least").met(1.8)
    assert not Bound("x", 1.8, "at least").met(1.79)
    assert Bound("x", 1.8, "at most").met(1.8)
    assert not Bound("x", 1.8, "at most").met(1.81)
    assert not Bound("x", 1.8, "at most").met(float("nan"))


def test_figures_are_found_by_names_that_hold_dots() -> None:
    report = {"fraction": {"0.5b": 0.97}, "0.5b": {"decode": {"1": {"tokens": 300}}}, "flat": 2}
    assert find(report, "fraction.0.5b") == 0.97
    assert find(report, "0.5b.decode.1.tokens") == 300
    assert find(report, "flat") == 2
    assert find(report, "fraction.tiny") is None


def test_only_what_was_measured_is_judged() -> None:
    rows = judged({"swaps": 6}, [Bound("swaps", 100, "at least"), Bound("failed", 0, "at most")])
    assert rows == [{"key": "swaps", "at least": 100, "measured": 6.0, "met": False}]


def test_a_report_is_json_on_the_last_line_or_a_table(tmp_path: Path) -> None:
    report: dict[str, Any] = {"benchmark": "x", "speed": {"tiny": 1.5}, "machine": machine()}
    report["bounds"] = judged(report, [Bound("speed.tiny", 2.0, "at least")])

    @click.command()
    @click.option("--json", "as_json", is_flag=True)
    def show(as_json: bool) -> None:
        finish(report, as_json=as_json, out=tmp_path / "deep" / "x.json")

    printed = CliRunner().invoke(show, ["--json"])
    assert json.loads(printed.stdout.splitlines()[-1]) == json.loads((tmp_path / "deep" / "x.json").read_text())
    table = CliRunner().invoke(show).stdout
    assert "speed.tiny" in table
    assert "NO" in table


def test_a_figure_that_is_no_number_is_never_written() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        finish({"benchmark": "x", "speed": float("nan")}, as_json=True)
