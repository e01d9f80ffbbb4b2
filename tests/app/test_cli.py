"""The command line: quick, light, and helpful about mistakes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from click.testing import CliRunner
from sqlalchemy import make_url, text

from app.cli import build
from app.store.connect import open_store
from app.store.migrate import script_config

HEAVY = {"torch", "transformers", "sqlalchemy", "fastapi", "celery", "psycopg"}


def lepo(*arguments: str, **env: str) -> tuple[int, str]:
    result = CliRunner(env=env).invoke(build(), arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


DOORS = (
    *("", "bench", "keys", "model", "model check", "model fetch", "policy", "policy rollback"),
    *("up", "demo", "train", "eval"),
)


@pytest.mark.parametrize("arguments", [[*door.split(), "--help"] for door in DOORS], ids=str)
def test_help_is_light(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from app.cli import build\n"
        f"code = build()({arguments!r}, standalone_mode=False)\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "Usage: " in done.stdout


@pytest.mark.parametrize("arguments", [[], ["demo"], ["policy"], ["model", "check"], ["model", "fetch"]], ids=str)
def test_help_comes_within_a_second(arguments: list[str]) -> None:
    spent = []
    for _ in range(3):
        begun = time.monotonic()
        subprocess.run([sys.executable, "-m", "app.cli", *arguments, "--help"], capture_output=True, check=True)
        spent.append(time.monotonic() - begun)
    assert min(spent) < 1.0


def test_every_door_of_this_room_opens() -> None:
    for name in ("up", "migrate", "keys", "model", "policy", "health"):
        assert lepo(name, "--help")[0] == 0


def test_a_mistyped_command_or_option() -> None:
    code, output = lepo("servve")
    assert code == 2
    assert "serve" in output
    code, output = lepo("keys", "create", "x", "--scop", "infer")
    assert code == 2
    assert "--scope" in output


def test_wrong_settings_are_told_in_a_line_each() -> None:
    code, output = lepo("migrate", LEPO_PORT="99999", LEPO_SLOTS="many", LEPO_LATENT_TAU="-1")
    assert code == 2
    assert [line.split(":")[0] for line in output.splitlines()] == ["LEPO_PORT", "LEPO_SLOTS", "LEPO_LATENT_TAU"]


def test_no_database_says_what_to_do(tmp_path: Path) -> None:
    code, output = lepo("migrate", LEPO_VAR_DIR=str(tmp_path))
    assert code == 1
    assert "lepo up" in output


def test_keys_from_birth_to_end(database_url: str) -> None:
    code, key = lepo("keys", "create", "phone", "--scope", "infer", "--days", "3", LEPO_DATABASE_URL=database_url)
    assert code == 0
    public = key.split("-")[1]
    assert f"{public}" in lepo("keys", "list", LEPO_DATABASE_URL=database_url)[1]
    code, output = lepo("keys", "trust", public, "quarantined", "--reason", "lies", LEPO_DATABASE_URL=database_url)
    assert (code, output) == (0, f"Key {public} (phone) is quarantined: lies.\n")
    assert "quarantined" in lepo("keys", "list", LEPO_DATABASE_URL=database_url)[1]
    assert "trust one" in lepo("keys", "agreement", LEPO_DATABASE_URL=database_url)[1]
    assert lepo("keys", "revoke", public, LEPO_DATABASE_URL=database_url)[0] == 0
    assert "revoked" in lepo("keys", "list", LEPO_DATABASE_URL=database_url)[1]
    assert lepo("keys", "create", "LEPO_ADMIN_KEY", LEPO_DATABASE_URL=database_url)[0] == 1, "a reserved name"
    code, output = lepo("keys", "revoke", "nobody", LEPO_DATABASE_URL=database_url)
    assert code == 1
    assert "lepo keys list" in output


def test_an_address_of_another_database_is_refused_without_its_password() -> None:
    code, output = lepo("migrate", LEPO_DATABASE_URL="mysql://lepo:topsecret@db/lepo")
    assert code == 2
    assert output.startswith("LEPO_DATABASE_URL: ")
    assert "topsecret" not in output


@pytest.mark.parametrize("fault", ["nobody listens", "wrong user", "no such revision", "a step fails"])
def test_a_migration_that_fails_is_told_in_a_line(database_url: str, tmp_path: Path, fault: str) -> None:
    """In a process of its own: what an operator reads is all that it wrote."""
    if fault == "nobody listens":
        database_url = "postgresql+psycopg://lepo@127.0.0.1:1/lepo"
    elif fault == "wrong user":
        database_url = make_url(database_url).set(username="stranger").render_as_string(hide_password=False)
    elif fault == "a step fails":
        assert lepo("migrate", "--down", "--to", "base", LEPO_DATABASE_URL=database_url)[0] == 0
        store = open_store(database_url, pool=1)
        with store.session() as session:
            session.execute(text("CREATE TABLE interactions (id integer)"))
        store.close()
    to = ["--to", "nowhere"] if fault == "no such revision" else []
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "migrate", *to],
        env={**os.environ, "LEPO_DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: The database was not migrated and is as it was: ")
    assert done.stdout == ""


def test_migrate_down_and_up(database_url: str) -> None:
    assert lepo("migrate", "--down", "--to", "base", LEPO_DATABASE_URL=database_url)[0] == 0
    newest = str(ScriptDirectory.from_config(script_config()).get_current_head())
    assert newest in lepo("migrate", LEPO_DATABASE_URL=database_url)[1]
