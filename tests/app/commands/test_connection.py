"""Which service a command asks, with which key, and what it says when that does not go well."""

import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.commands.connection import found
from app.settings import Settings
from app.stack.address_file import Address, kept_address, running_address, write_address
from tests.app.api.live import Live
from tests.app.commands.conftest import Said
from tests.app.test_cli import lepo


@pytest.fixture
def var_dir(tmp_path: Path) -> Path:
    """A directory in which this process says that it runs a stack."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "supervisor.lock").write_text(f"{os.getpid()}\n")
    return tmp_path


def test_what_was_said_goes_before_what_is_found(var_dir: Path) -> None:
    write_address(var_dir, Address("http://127.0.0.1:1234", "lepo-kept-x"))
    settings = Settings(var_dir=var_dir, host="0.0.0.0", port=4321, admin_key=SecretStr("lepo-fixed-x"))
    here = found(settings, None, None)
    assert (here.url, here.key) == ("http://127.0.0.1:1234", "lepo-kept-x")
    assert found(settings, None, "lepo-own-x").key == "lepo-own-x"
    there = found(settings, "http://example.org/", None)
    assert (there.url, there.key) == ("http://example.org", None), "keys of here are not for elsewhere"
    write_address(var_dir, Address(None, "lepo-kept-x"))
    stopped = found(settings, None, None)
    assert (stopped.url, stopped.key) == ("http://127.0.0.1:4321", "lepo-fixed-x")


def test_the_address_is_its_owners_alone_and_ends_with_its_stack(var_dir: Path) -> None:
    address = Address("http://127.0.0.1:1234", "lepo-kept-x")
    write_address(var_dir, address)
    write_address(var_dir, address)
    path = var_dir / "run" / "service.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in path.parent.iterdir()].count("service.new") == 0
    assert running_address(var_dir) == address
    (var_dir / "run" / "supervisor.lock").write_text("4194304999\n")
    assert running_address(var_dir) is None, "whoever has its port now gets no key"
    assert kept_address(var_dir) == address
    path.write_text("{")
    assert kept_address(var_dir) is None


def test_the_stack_of_the_directory_is_found(live: Live, var_dir: Path) -> None:
    write_address(var_dir, Address(live.url, live.keys["admin"]))
    assert lepo("keys", "list", LEPO_VAR_DIR=str(var_dir))[0] == 0


def test_nobody_answers(said: Said, tmp_path: Path) -> None:
    code, output = lepo("policy", "status", "--url", "http://127.0.0.1:1", "--key", "lepo-abcd-x")
    assert code == 1
    assert "Nothing answers at http://127.0.0.1:1 (--url or LEPO_URL)" in output
    assert "lepo up" in output
    assert "lepo doctor" in output


def test_no_key_a_wrong_key_a_key_that_may_not(live: Live, said: Said, tmp_path: Path) -> None:
    code, output = lepo("policy", "status", LEPO_URL=live.url, LEPO_VAR_DIR=str(tmp_path))
    assert code == 1
    assert "LEPO_API_KEY" in output
    assert "--direct" in output
    code, output = lepo("policy", "status", LEPO_URL=live.url, LEPO_API_KEY="lepo-abcd-" + "0" * 64)
    assert code == 1
    assert "is not known here" in output
    assert live.url in output
    code, output = said("policy", "status", key="infer")
    assert code == 1
    assert "admin" in output
    assert "LEPO_API_KEY" in output
