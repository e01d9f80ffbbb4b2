"""The report against figures written out by hand, with cells missing, and what the page says of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.learning.page import markdown
from benchmarks.learning.real.budget import Cell
from benchmarks.learning.real.cells import Cache, Plan
from benchmarks.learning.real.picture import draw
from benchmarks.learning.real.report import summarised
from benchmarks.learning.real.verdict import verdict
from tests.benchmarks.learning.real.letters import cache_of, plan

MOVED = {"kl": 0.01, "latent_entropy": 0.5, "effective_support": 2.0, "mean_tokens": 7.0}


def keep(cache: Cache, cell: Cell, solved: Sequence[float], own: Sequence[int], token: Sequence[int]) -> None:
    """Write what a cell would have given: two updates of one problem each."""
    spent = {"answering": 2.0, "learning": 3.0}
    updates = [
        {"answers": 8, "solved": [one], "reward": one, "signal_share": 1.0, "distinct_answers": 4.0, **MOVED}
        | {"cpu_seconds": spent}
        for one in solved
    ]
    cache.file(cell).write_text(json.dumps({"updates": updates, "test": {"own": own, "token": token}}))


def filled(made: Plan, cache: Cache, lead: float, later: int) -> None:
    """Keep all cells: GRPO ends at 4 of 8, the others at 4 + `later`, their area ahead by `lead`."""
    for cell in made.cells():
        ours = cell.method.latent_length > 0
        after = 2 if cell.of_base else 4 + later * ours
        reward = 0.25 + lead * ours
        keep(cache, cell, [] if cell.of_base else [reward, reward + 0.25], [after] * 3, [4 if ours else after] * 3)


@pytest.fixture
def made(base: Path) -> Plan:
    return plan(base, "grpo", "lepo", "lepo_averaged")


@pytest.fixture
def cache(made: Plan, tmp_path: Path) -> Cache:
    return cache_of(tmp_path, made)


def test_figures_are_those_of_the_cells(made: Plan, cache: Cache, tmp_path: Path) -> None:
    filled(made, cache, lead=0.125, later=2)
    report = summarised(made, cache, {"cores": 1})
    assert report["missing"] == []
    cell = report["methods"]["lepo"]["mean"]
    assert cell["area"] == pytest.approx(0.5)
    assert cell["area minus grpo"] == pytest.approx({"mean": 0.125, "low": 0.125, "high": 0.125})
    assert cell["own avg@8"]["before"] == 0.25
    assert cell["own avg@8"]["after"] == 0.75
    assert cell["own avg@8"]["gain"]["mean"] == 0.5
    assert cell["token avg@8"]["after"] == 0.5
    assert cell["gain in avg@8 minus grpo"] == {"mean": 0.25, "low": 0.25, "high": 0.25}
    assert cell["gain in pass@8 minus grpo"]["mean"] == 0.0
    assert [(one["answers"], one["seconds"]) for one in report["curves"]["lepo"]["one"]] == [(0, 0), (8, 5)]
    assert {row["key"]: row["met"] for row in report["bounds"]} == {"best_area_high": True, "best_gain_low": True}
    text = markdown(report, None)
    assert "| mean | lepo | avg@8 | 25.0% | 75.0% | +50.0 [+50.0, +50.0] | +25.0 [+25.0, +25.0] |" in text
    assert "lepo_averaged, gain in avg@8: above GRPO on one, other, mean." in text
    assert "missing" not in text
    draw(tmp_path / "picture.png", report)
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_missing_cells_are_named_and_pairs_are_of_seeds_that_both_have(made: Plan, cache: Cache) -> None:
    filled(made, cache, lead=0.125, later=2)
    for cell in made.cells():
        gone = {("grpo", "one", 2), ("lepo", "other", 1), ("lepo", "other", 2), ("lepo_averaged", "one", 1)}
        if (cell.method.name, cell.family.name, cell.seed) in gone:
            cache.file(cell).unlink()
    report = summarised(made, cache, {})
    named = [(one["family"], one["method"], one["seed"]) for one in report["missing"]]
    assert named == [("one", "lepo_averaged", 1), ("other", "lepo", 1), ("one", "grpo", 2), ("other", "lepo", 2)]
    lepo, averaged = report["methods"]["lepo"], report["methods"]["lepo_averaged"]
    assert (lepo["one"]["seeds"], lepo["one"]["paired seeds"]) == ([1, 2], [1])
    assert lepo["other"] is None is lepo["mean"]
    assert averaged["one"]["seeds"] == [2]
    assert "paired seeds" not in averaged["one"]  # GRPO's there is missing
    assert averaged["other"]["paired seeds"] == [1, 2]
    assert "best" not in report
    text = markdown(report, None)
    missing = "`lepo_averaged` (one 1), `lepo` (other 1 2), `grpo` (one 2)"
    assert f"**4 of 18 cells are missing**, by family and seed: {missing}." in text
    assert "**Whether latents pay is not known yet**" in text
    assert "lepo_averaged, area: above GRPO on other." in text


def test_a_report_of_nothing_says_so(made: Plan, cache: Cache, tmp_path: Path) -> None:
    report = summarised(made, cache, {})
    assert len(report["missing"]) == report["cells"] == 18
    assert "**18 of 18 cells are missing**" in markdown(report, None)
    draw(tmp_path / "picture.png", report)


def test_a_family_without_cells_is_left_out_of_the_mean(made: Plan, cache: Cache, tmp_path: Path) -> None:
    filled(made, cache, lead=0.125, later=2)
    for cell in made.cells():
        if cell.family.name == "other":
            cache.file(cell).unlink()
    report = summarised(made, cache, {})
    assert report["families"] == ["one"]
    assert report["methods"]["lepo"]["mean"] == report["methods"]["lepo"]["one"]
    assert "On the mean of one (seeds 1, 2) that area differs" in verdict(report)
    assert "`token` (other)" in markdown(report, None)
    draw(tmp_path / "picture.png", report)


@pytest.mark.parametrize(
    ("lead", "later", "said"),
    [
        (0.125, 2, "**Latents pay here.**"),
        (0.0, 2, "**Latents pay here.**"),
        (-0.125, 2, "**Latents do not pay here.**"),  # more in the end, but slower
        (0.125, 0, "**That latents pay is not shown here.**"),
        (0.125, -4, "**Latents do not pay here.**"),
    ],
)
def test_the_verdict_follows_from_the_intervals(made: Plan, cache: Cache, lead: float, later: int, said: str) -> None:
    filled(made, cache, lead, later)
    report = summarised(made, cache, {})
    assert verdict(report).startswith(said)
    assert f"differs from GRPO's by {100 * lead:+.1f} [" in verdict(report)


def test_the_larger_area_chooses_among_our_methods_and_no_exam(made: Plan, cache: Cache) -> None:
    filled(made, cache, 0.0, 0)
    for cell in made.cells():
        if cell.method.name == "lepo_averaged" and not cell.of_base:
            keep(cache, cell, [0.9, 0.9], [0] * 3, [0] * 3)
    report: dict[str, Any] = summarised(made, cache, {})
    assert report["best"] == "lepo_averaged"
    assert report["best_area_low"] > 0 > report["best_gain_low"]
