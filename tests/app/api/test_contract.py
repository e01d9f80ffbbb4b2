"""Schemathesis against the running server: all that its document says is so, with every kind of key and without any.

It is derandomized, so a failure is found again. The quick form asks each operation a few generated requests, its edge
cases (not those of the three bodies with dozens of fields) and chains of requests along the links; `-m slow` asks all
of it. What it may not find fault with is said in `schemathesis.toml`.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.app.api.contract import operations
from tests.app.api.live import Live, served

CONFIG = Path(__file__).with_name("schemathesis.toml")
MINUTES = 60


@pytest.fixture(scope="module")
def open_house(module_database_url: str, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server of short answers, with patience for wrong keys, of which this sends many."""
    patient: dict[str, Any] = {
        "bad_keys_per_minute": 10**9,
        "database_timeout": 60,
        "latent_length": 1,
        "max_length": 96,
    }
    with served(module_database_url, model_dir, tmp_path_factory.mktemp("var"), **patient) as server:
        yield server


def require_no_failures(server: Live, key: str | None, *more: str) -> None:
    """Run schemathesis with one of the keys, or none."""
    sent = [] if key is None else ["--header", f"Authorization: Bearer {server.keys[key]}"]
    tool = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run", *sent, *more]
    done = subprocess.run([*tool, f"{server.url}/openapi.json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-100_000:] + done.stderr
    assert "No tests were run" not in done.stdout
    assert f"/ {len(operations())} total" in done.stdout


@pytest.mark.timeout(10 * MINUTES)
def test_what_is_generated_and_linked(open_house: Live) -> None:
    require_no_failures(open_house, "admin", "--phases", "examples,fuzzing,stateful", "--max-examples", "3")


@pytest.mark.timeout(10 * MINUTES)
def test_edge_cases_of_what_operators_do(open_house: Live) -> None:
    require_no_failures(open_house, "admin", "--phases", "coverage", "--include-path-regex", "^/v1/admin/(jobs|keys)")


@pytest.mark.timeout(10 * MINUTES)
@pytest.mark.parametrize("key", [None, "infer", pytest.param("grade", marks=pytest.mark.slow)])
def test_keys_that_open_little(open_house: Live, key: str | None) -> None:
    require_no_failures(open_house, key, "--phases", "fuzzing", "--max-examples", "1")


@pytest.mark.slow
@pytest.mark.timeout(60 * MINUTES)
def test_edge_cases_of_all(open_house: Live) -> None:
    require_no_failures(open_house, "admin", "--phases", "coverage")


@pytest.mark.slow
@pytest.mark.timeout(60 * MINUTES)
def test_much_that_is_generated_and_linked(open_house: Live) -> None:
    require_no_failures(open_house, "admin", "--phases", "fuzzing,stateful", "--max-examples", "60")
