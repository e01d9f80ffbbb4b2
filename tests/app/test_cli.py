"""The command line: quick, light, and helpful about mistakes."""

import os
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from getpass import getuser
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from click.testing import CliRunner
from sqlalchemy import make_url, text

from app.cli import build
from app.commands.keys import actor
from app.store.audit import list_audit
from app.store.connect import open_store
from app.store.keys import authenticate
from app.store.migrate import script_config

HEAVY = {"torch", "transformers", "sqlalchemy", "fastapi", "celery", "psycopg"}


def lepo(*arguments: str, **env: str) -> tuple[int, str]:
    result = CliRunner(env=env).invoke(build(), arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


DOORS = (
    *("", "bench", "keys", "model", "model check", "model fetch", "policy", "policy rollback"),
    *("up", "demo", "train", "eval", "jobs", "grades", "grades add", "sessions", "data", "data export", "projects"),
    *("top", "doctor", "completion"),
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
    for name in ("up", "migrate", "keys", "model", "policy", "health", "jobs", "top", "doctor", "completion"):
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


def test_a_first_key_is_made_straight_on_the_database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"LEPO_DATABASE_URL": database_url}
    code, text = lepo("keys", "create", "phone", "--scope", "admin", "--days", "3", "--direct", **here)
    assert code == 0
    with closing(open_store(database_url, pool=1)) as store, store.session() as session:
        key = authenticate(session, text.strip(), datetime.now(UTC), "admin")
        assert (key.name, key.expires_at is not None) == ("phone", True)
        assert authenticate(session, text.strip(), datetime.now(UTC) + timedelta(days=2)) is key
        [entry] = list_audit(session, limit=10)
        assert (entry.actor, entry.action, entry.target) == (f"login:{getuser()}", "keys create", key.id)
    assert lepo("keys", "create", "LEPO_ADMIN_KEY", "--direct", **here)[0] == 1, "a reserved name"

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert actor().removeprefix("login:").isdecimal(), "in a container a user may have no entry among the accounts"


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
