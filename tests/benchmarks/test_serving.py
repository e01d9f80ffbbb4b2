"""`lepo bench swap` and `lepo bench http` on a small model: real processes, and the promises that hold at any speed."""

import json
import math
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import health, http, swap
from benchmarks.audit import TOLERANCE
from benchmarks.shapes import SHAPES


@pytest.fixture(scope="module")
def swapped() -> dict[str, Any]:
    load = swap.Load(swaps=4, fresh=2, slots=4, streams=6, prompts=4, prompt=40, answer=12, latents=3, replayed=60)
    return swap.measure(SHAPES["micro"], load, threads=1, device="cpu", dtype="float32")


def test_nothing_is_lost_by_a_swap(swapped: dict[str, Any]) -> None:
    for key in ("failed", "broken_streams", "failed_swaps", "fingerprint_mismatches"):
        assert swapped[key] == 0, swapped["complaints"]
    assert swapped["requests"] > 0
    assert swapped["swaps"] == 4


def test_every_rollout_is_of_the_version_it_claims(swapped: dict[str, Any]) -> None:
    assert swapped["mixed_version_rollouts"] == 0
    assert swapped["stale_prefix_hits"] == 0
    assert swapped["cold_start_mismatches"] == 0
    assert swapped["versions_answered"] > 1, "the load must have met several versions"
    assert swapped["prefix_hit_tokens"] > 0, "the load must have used the prefix cache"
    tolerance = next(iter(TOLERANCE.values()))
    assert swapped["largest_error"] < tolerance < swapped["wrong_version_error"]


def test_the_times_of_swaps_are_figures(swapped: dict[str, Any]) -> None:
    assert 0 < swapped["publish_to_served_s_p99"] < 60
    assert 0 <= swapped["pause_steps_p99"] < 1000
    assert all(math.isfinite(value) for value in swapped["longest_gap_steps"]["swapping"].values())


def test_the_server_is_measured_beside_its_engine() -> None:
    arguments = ["--shape", "micro", "--streams", "4", "--threads", "1", "--quick", "--json"]
    ran = CliRunner().invoke(http.command, arguments)
    assert ran.exit_code == 0, ran.output
    report = json.loads(ran.stdout.splitlines()[-1])
    assert 0 < report["fraction_of_engine"] < 10
    assert (report["failed"], report["broken_streams"], report["uncommitted"]) == (0, 0, 0)
    assert report["committed"] == report["requests"] == 8
    assert report["failed_faces"] == 0
    assert set(report["faces"]) == {"responses", "tools"}
    for key in ("first_token_s", "inter_token_s"):
        assert 0 < report[key]["p50"] <= report[key]["p90"] <= report[key]["p99"] <= report[key]["max"]


def test_one_row_is_measured_alone() -> None:
    load = http.Load(streams=2, requests=2, prompt=8, answer=4, repeats=1)
    report = http.measure(SHAPES["micro"], load, threads=1, device="cpu", dtype="float32", rows=("tools",))
    assert (report["failed_faces"], set(report["faces"])) == (0, {"tools"})
    assert "fraction_of_engine" not in report
    assert [row["key"] for row in report["bounds"]] == ["failed_faces"]


def test_health_is_looked_at_beside_large_responses() -> None:
    report = health.measure(SHAPES["micro"], 8, ("scored", "chat_streamed"))
    assert report["failed"] == 0, report
    assert set(report["health"]) == {"quiet", "scored", "chat_streamed"}
    for one in report["health"].values():
        assert 0 < one["p50_ms"] <= one["p90_ms"] <= one["max_ms"]
    assert report["health"]["scored"]["bytes"] > 100_000
