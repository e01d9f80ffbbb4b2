"""Slopes with intervals tell growth from noise, and thirty seconds of saturation end with every figure."""

import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.soak.command import command, growth
from benchmarks.soak.slope import slope_of
from benchmarks.soak.watch import Watched

SECONDS = [float(second) for second in range(120)]


def test_a_straight_line_has_its_slope_and_no_doubt() -> None:
    found = slope_of(SECONDS, [10 + second / 60 for second in SECONDS])
    assert found.per_minute == pytest.approx(1.0)
    assert found.high - found.low == pytest.approx(0.0, abs=1e-9)


def test_noise_has_an_interval_around_nothing_and_growth_in_noise_one_above_it() -> None:
    rng = random.Random(0)
    noise = [rng.gauss(50, 1) for _ in SECONDS]
    flat = slope_of(SECONDS, noise)
    assert flat.low < 0 < flat.high
    assert slope_of(SECONDS, [value + second / 20 for value, second in zip(noise, SECONDS, strict=True)]).low > 2


def test_too_few_values_have_no_slope() -> None:
    with pytest.raises(ValueError, match="4 values or more"):
        slope_of([0.0, 1.0, 2.0], [1.0, 2.0, 3.0])


def test_the_process_that_grows_most_is_the_one_judged() -> None:
    seen = Watched(
        times_s=SECONDS,
        series={
            "memory_mib.api": [100.0 for _ in SECONDS],
            "memory_mib.worker": [100.0 + second for second in SECONDS],
            "files.api": [7.0 for _ in SECONDS],
            "connections": [3.0 + second / 60 for second in SECONDS],
        },
    )
    found = growth(seen)
    assert found["memory_growth_percent_per_minute"] == pytest.approx(100 * 60 / 159.5)
    assert found["files_growth_per_minute"] == pytest.approx(0.0)
    assert found["connections_growth_per_minute"] == pytest.approx(1.0)


@pytest.mark.timeout(600)
def test_half_a_minute_of_saturation_breaks_nothing_and_starves_nobody(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    arguments = ["--minutes", "0.5", "--json", "--directory", str(tmp_path / "s"), "--out", str(out)]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text())
    assert report["violations"] == 0, report["violations_in_words"]
    assert report["refused"] == 0
    assert report["throughput"] > 0
    assert report["throughput_with_backlog"] > 0
    assert report["control_p99_s"] < 10
    assert {"memory_mib.api", "memory_mib.worker", "files.postgres", "connections", "dead_rows"} <= set(
        report["slopes"]
    )
