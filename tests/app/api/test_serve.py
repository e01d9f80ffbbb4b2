"""`lepo serve` as an operator runs it: a process that comes up from an empty database and ends when it is told to."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, cast

import click
import httpx
import pytest
import torch

from app.api.serve import answer
from app.engine.config import EngineConfig
from app.settings import Settings
from app.store.connect import open_store
from app.store.migrate import downgrade
from app.store.policy_life import serving
from tests.app.api.live import CONTEXT, wait_for
from training.checkpoint import verify


def environment(url: str, model_dir: Path, var_dir: Path, port: int) -> dict[str, str]:
    settings = {"VAR_DIR": var_dir, "DATABASE_URL": url, "MODEL": model_dir, "MAX_LENGTH": CONTEXT, "PORT": port}
    return {**os.environ, "OMP_NUM_THREADS": "1", **{f"LEPO_{name}": str(value) for name, value in settings.items()}}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "app.cli", "serve"]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def test_only_the_engines_thread_is_given_the_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The thread that loads the model must make no team of its own: see `Engine.start`."""
    seen: list[int] = []

    def load(_settings: Settings, _store: object) -> NoReturn:
        seen.append(torch.get_num_threads())
        raise ValueError("no model here")

    monkeypatch.setattr("app.api.first_policy.first_policy", load)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    settings = Settings(var_dir=tmp_path, threads=3)
    try:
        with pytest.raises(click.ClickException, match="no model here"):
            answer(settings, cast("Any", None), cast("Any", None))
    finally:
        torch.set_num_threads(before)
    assert seen == [1]
    assert EngineConfig.from_settings(settings).threads == 3


def test_it_comes_up_from_nothing_and_ends_when_told(database_url: str, model_dir: Path, tmp_path: Path) -> None:
    port = free_port()
    key = f"lepo-operator-{'5' * 64}"
    with process(environment(database_url, model_dir, tmp_path, port) | {"LEPO_ADMIN_KEY": key}) as running:
        wait_for(lambda: running.poll() is not None or is_ready(port), seconds=60)
        overview = httpx.get(f"http://127.0.0.1:{port}/v1/admin/overview", headers={"Authorization": f"Bearer {key}"})
        assert overview.status_code == 200, "a deployment's own admin key opens"
        assert httpx.get(f"http://127.0.0.1:{port}/version").json()["policy_version"] == 0
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0
    store = open_store(database_url, pool=1)
    with store.session() as session:
        row = serving(session)
    store.close()
    assert row is not None
    assert (row.version, Path(row.path)) == (0, tmp_path / "checkpoints" / "v00000000")
    assert verify(Path(row.path)).fingerprint == row.digest


def test_a_database_that_is_not_migrated_is_refused_in_words(
    database_url: str, model_dir: Path, tmp_path: Path
) -> None:
    downgrade(database_url, "base")
    with process(environment(database_url, model_dir, tmp_path, free_port())) as running:
        assert running.wait(60) == 1
        assert running.stderr is not None
        assert running.stderr.read().strip().endswith("run: lepo migrate")


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200
    except httpx.TransportError:
        return False
