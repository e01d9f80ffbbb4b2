"""Schemathesis against the running server: all that its document says is so, with an admin key, and without any."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app.api.live import Live, served

CONFIG = Path(__file__).with_name("schemathesis.toml")


@pytest.fixture(scope="module")
def open_house(module_database_url: str, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server with patience for wrong keys, of which this sends many."""
    var = tmp_path_factory.mktemp("var")
    with served(
        module_database_url,
        model_dir,
        var,
        bad_keys_per_minute=10**9,
        latent_length=1,
        max_length=96,
        database_timeout=60,
    ) as server:
        yield server


def asked(server: Live, *more: str, key: str | None = "admin") -> subprocess.CompletedProcess[str]:
    """Run schemathesis."""
    sent = [] if key is None else ["--header", f"Authorization: Bearer {server.keys[key]}"]
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run", *sent, *more]
    return subprocess.run(
        [*command, f"{server.url}/openapi.json"], capture_output=True, text=True, check=False, timeout=600
    )


@pytest.mark.timeout(900)
def test_with_a_key(open_house: Live) -> None:
    done = asked(open_house, "--max-examples", "5")
    assert done.returncode == 0, done.stdout[-200_000:] + done.stderr
