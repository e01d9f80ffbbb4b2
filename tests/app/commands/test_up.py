"""`lepo up`: what stands in its way is told in words and at once, and commands find what it started."""

import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from app.stack.address_file import kept_address, running_address
from app.stack.stack import OPERATORS, Stack
from app.store.connect import open_store
from app.store.keys import list_keys, revoke
from tests.app.test_cli import lepo


@pytest.fixture(scope="module")
def var_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lepo-up-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def stack(var_dir: Path) -> Iterator[Stack]:
    """The stack with a server, on a free port."""
    with Stack(var_dir, {"LEPO_PORT": "0"}, parts=("api",)) as started:
        yield started


def up(**env: str) -> tuple[int, str]:
    """Run `lepo up`, which is to end by itself."""
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "up"],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_taken_port_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, output = up(LEPO_VAR_DIR=str(tmp_path), LEPO_PORT=port)
    assert code == 1
    assert f"Error: port {port} of 127.0.0.1 cannot be had (Address already in use" in output
    assert "set LEPO_PORT" in output
    assert "is ready at" not in output
    assert not (tmp_path / "postgres").exists()


def test_another_lepo_on_the_port_is_named(stack: Stack, tmp_path: Path) -> None:
    code, output = up(LEPO_VAR_DIR=str(tmp_path), LEPO_PORT=str(stack.port))
    assert code == 1
    assert "another lepo answers there" in output


def test_a_second_stack_in_the_same_directory_is_refused(stack: Stack, var_dir: Path) -> None:
    code, output = up(LEPO_VAR_DIR=str(var_dir), LEPO_PORT=str(stack.port))
    assert code == 1
    assert f"lepo runs already in {var_dir.resolve()} (pid {os.getpid()})" in output
    assert "LEPO_VAR_DIR" in output


def test_commands_find_the_service_and_its_key(stack: Stack, var_dir: Path) -> None:
    here = {"LEPO_VAR_DIR": str(var_dir)}
    address = running_address(var_dir)
    assert address is not None
    assert address.url == stack.base_url
    assert stat.S_IMODE((var_dir / "run" / "service.json").stat().st_mode) == 0o600
    assert lepo("keys", "create", "phone", **here)[0] == 0
    assert "phone" in lepo("keys", "list", **here)[1]
    assert "slots busy" in lepo("top", "--once", **here)[1]


def test_keys_are_kept_out_of_a_log(stack: Stack) -> None:
    assert stack.admin_key is not None
    quiet = stack.welcome(show_keys=False)
    assert stack.admin_key not in quiet
    assert "lepo-" not in quiet
    assert "lepo keys create NAME" in quiet
    assert "--show-keys" in quiet
    assert stack.admin_key in stack.welcome(show_keys=True)


def test_the_key_of_commands_lasts_and_is_replaced_when_it_was_revoked() -> None:
    with tempfile.TemporaryDirectory(prefix="lepo-up-", ignore_cleanup_errors=True) as directory:
        kept = []
        for round_ in range(3):
            with Stack(Path(directory), parts=()) as stack, closing(open_store(stack.database_url, pool=1)) as store:
                address = kept_address(Path(directory))
                if round_ == 0:
                    assert address is None, "it is written when a server answers, or all stops"
                    continue
                assert address is not None
                assert address.url is None
                kept.append(address.key)
                with store.session() as session:
                    if round_ == 1:
                        assert OPERATORS not in {key.name for key in list_keys(session)}, "the first admin's key serves"
                        revoke(session, address.key.split("-")[1])
        last = kept_address(Path(directory))
        assert last is not None
        assert last.key != kept[0]
