"""`lepo bench engine` on a shape of milliseconds: every figure is there, and none is made up."""

import json
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.engine import BOUNDS, ORDER, command, keys, plan_for


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    ran = CliRunner().invoke(command, ["--shape", "micro", "--threads", "1", "--quick", "--json"])
    assert ran.exit_code == 0, ran.output
    read: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return read


def test_every_asked_key_is_a_positive_number(report: dict[str, Any]) -> None:
    plain = (
        "speedup_vs_generate_b8",
        "speedup_vs_generate_b32",
        "speedup_vs_continuous_batching",
        "latent_step_over_token_step",
    )
    for key in plain:
        assert 0 < report[key] < 1000
    for key in ("speedup_ragged", "fraction_of_bare_forward"):
        assert 0 < report[key]["micro"] < 1000


def test_a_ratio_is_the_median_of_what_was_timed(report: dict[str, Any]) -> None:
    sections = report["raw"]["micro"]
    assert set(sections) == {
        "generate_b8",
        "generate_b32",
        "ragged",
        "continuous_batching",
        "bare_forward",
        "latent_step",
    }
    for section in sections.values():
        spread = section["ratio_spread"]
        assert section["ratio"] == spread["median"]
        assert spread["min"] <= spread["median"] <= spread["max"]
        assert len(spread["values"]) == section["settings"]["repeats"]
        [series] = [value for key, value in section.items() if "_per_" in key]
        pairs = zip(*(peer["values"] for peer in series.values()), spread["values"], strict=True)
        for one, other, paired in pairs:
            assert one / other == pytest.approx(paired, rel=2e-3)


def test_settings_and_machine_are_on_record(report: dict[str, Any]) -> None:
    assert report["settings"] == {
        "threads": 1,
        "quick": True,
        "device": "cpu",
        "dtype": "float32",
        "shapes": ["micro"],
    }
    assert {"load_average_before", "alone", "torch", "transformers", "processor"} <= set(report["machine"])


def test_the_full_run_asks_what_the_bounds_are_about() -> None:
    """Every bound has a section in the plan of its shape, with the loads that were agreed on."""
    plans = {name: plan_for(name, quick=False) for name in ORDER}
    made: dict[str, dict[str, Any]] = {}
    for name, plan in plans.items():
        sections = ["bare_forward", "latent_step"]
        sections += ["generate_b8", "generate_b32"] if plan.equal is not None else []
        sections += ["ragged"] if plan.ragged is not None else []
        sections += ["continuous_batching"] if plan.continuous else []
        made[name] = {section: {"ratio": 1.0} for section in sections}
    found = keys(made)
    for bound in BOUNDS:
        head, _, rest = bound.key.partition(".")
        assert head in found
        assert not rest or rest in found[head]
    ragged = plans["tiny"].ragged
    assert ragged is not None
    assert (ragged.count, ragged.slots, ragged.prompts, ragged.answers) == (64, 16, (8, 256), (16, 256))
    assert plans["0.5b"].latents.batch == 8
