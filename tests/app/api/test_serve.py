"""`lepo serve` as an operator runs it: a process that comes up from an empty database and ends when it is told to."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NoReturn, cast

import click
import httpx
import pytest
import torch
from pydantic import SecretStr

from app.api.serve import admit_an_administrator, answer, bound
from app.engine.config import EngineConfig
from app.settings import Settings
from app.store.connect import open_store
from app.store.migrate import downgrade
from app.store.policy_life import serving
from app.telemetry.told import Silence
from tests.app.api.live import CONTEXT, wait_for
from training.models.checkpoint import verify


def environment(url: str, model_dir: Path, var_dir: Path, port: int) -> dict[str, str]:
    settings = {"VAR_DIR": var_dir, "DATABASE_URL": url, "MODEL": model_dir, "MAX_LENGTH": CONTEXT, "PORT": port}
    return {**os.environ, "OMP_NUM_THREADS": "1", **{f"LEPO_{name}": str(value) for name, value in settings.items()}}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(env: dict[str, str], *program: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, *(program or ("-m", "app.cli", "serve"))]
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

    monkeypatch.setattr("app.api.policy.first.first_policy", load)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    settings = Settings(var_dir=tmp_path, threads=3)
    try:
        with pytest.raises(click.ClickException, match="no model here"):
            answer(settings, cast("Any", None), cast("Any", None), cast("Any", None), Silence())
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


def test_a_taken_port_is_told_before_the_model_is_loaded(database_url: str, model_dir: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with process(environment(database_url, model_dir, tmp_path, port)) as running:
            assert running.wait(60) == 1
            assert running.stderr is not None
            assert "Set LEPO_HOST or LEPO_PORT" in running.stderr.read()
    assert not (tmp_path / "checkpoints").exists(), "nothing was loaded or written for a server that cannot listen"


def test_a_port_that_is_taken_while_the_model_loads_ends_the_server(
    database_url: str, model_dir: Path, tmp_path: Path
) -> None:
    settings = Settings(var_dir=tmp_path, database_url=database_url, model=str(model_dir), max_length=CONTEXT)
    listener = bound("127.0.0.1", 0)
    store = open_store(database_url, pool=4)
    with listener, socket.socket() as other, closing(store):
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(listener.getsockname())
        other.listen()
        with pytest.raises(click.ClickException, match="Cannot listen"):
            answer(settings, store, store, listener, Silence())


CRASH = """
import app.engine.lane
from app.cli import main

def step(self):
    if self.running:
        raise RuntimeError("the accelerator fell off")

app.engine.lane.Lane.step = step
main()
"""


def test_a_server_whose_engine_fails_ends_with_an_error(database_url: str, model_dir: Path, tmp_path: Path) -> None:
    """So that whoever runs the process (compose, Kubernetes, `lepo up`) starts another."""
    port, key = free_port(), f"lepo-operator-{'5' * 64}"
    env = environment(database_url, model_dir, tmp_path, port) | {"LEPO_ADMIN_KEY": key}
    with process(env, "-c", CRASH, "serve") as running:
        wait_for(lambda: running.poll() is not None or is_ready(port), seconds=60)
        asked = {"model": "lepo", "messages": [{"role": "user", "content": "2"}]}
        answered = httpx.post(
            f"http://127.0.0.1:{port}/v1/chat/completions", json=asked, headers={"Authorization": f"Bearer {key}"}
        )
        assert answered.status_code == 500
        assert running.wait(20) == 1
        assert running.stderr is not None
        last = running.stderr.read().strip().splitlines()[-1]
    assert last == "Error: The engine has failed (RuntimeError: the accelerator fell off); see above."


def test_a_server_says_in_its_log_what_became_of_its_admin_key_and_never_the_key(
    database_url: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(database_url, pool=1)

    def start(key: str | None) -> str:
        caplog.clear()
        admit_an_administrator(Settings(admin_key=None if key is None else SecretStr(key)), store)
        return "\n".join(caplog.messages)

    first, second = "lepo-ops1-" + "s" * 32, "lepo-ops2-" + "t" * 32
    with closing(store):
        assert "lepo keys create" in start(None)
        assert start(first) == ""
        assert start(None) == "", "somebody holds one"
        assert start(second) == "LEPO_ADMIN_KEY is now key ops2; revoked: ops1"
        assert start(second) == ""
        assert "LEPO_ADMIN_KEY opens nothing: key ops1 was revoked" in start(first)
    said = capsys.readouterr()
    assert said.out + said.err == ""


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200
    except httpx.TransportError:
        return False
