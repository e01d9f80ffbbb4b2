"""Reads docker/compose.yaml as Compose does: variables filled in, anchors merged, a profile's services.

Only what that file uses; `docker compose config` was compared with it (docs/log.md, "Compose").
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def compose(env: str = "", *, shell: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The file with the variables of an `.env`, over which those of the shell win; services of its profiles only."""
    values = {**dotenv(env), **(shell or {})}
    document: dict[str, Any] = filled(yaml.safe_load((DOCKER / "compose.yaml").read_text()), values)
    profiles = set(filter(None, values.get("COMPOSE_PROFILES", "").split(",")))
    document["services"] = {
        name: service
        for name, service in document["services"].items()
        if not service.get("profiles") or profiles & set(service["profiles"])
    }
    return document


def environment(service: Mapping[str, Any], env: str) -> dict[str, str]:
    """The variables a container starts with, beside its image's."""
    files = [dotenv(env) for file in service.get("env_file", ()) if file == ".env"]
    return {name: value for part in (*files, service.get("environment", {})) for name, value in part.items()}


def dotenv(text: str) -> dict[str, str]:
    """Variables of a file; a later line wins."""
    lines = [line.strip() for line in text.splitlines()]
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def filled(value: Any, env: Mapping[str, str]) -> Any:
    """Fill variables in, wherever a text stands."""
    if isinstance(value, dict):
        return {name: filled(one, env) for name, one in value.items()}
    if isinstance(value, list):
        return [filled(one, env) for one in value]
    return fill(value, env) if isinstance(value, str) else value


def fill(text: str, env: Mapping[str, str]) -> str:
    """Fill in `$$`, `${NAME}`, and `${NAME:-default}`, whose default may hold variables again."""
    out, at = "", 0
    while (dollar := text.find("$", at)) >= 0:
        out += text[at:dollar]
        if text[dollar + 1] == "$":
            out, at = out + "$", dollar + 2
            continue
        assert text[dollar + 1] == "{", f"a bare $ in {text!r}"
        end = closing(text, dollar + 1)
        out, at = out + variable(text[dollar + 2 : end], env), end + 1
    return out + text[at:]


def closing(text: str, at: int) -> int:
    """Where the brace that opens at `at` is closed."""
    depth = 0
    for index in range(at, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise ValueError(f"a brace is not closed in {text!r}")


def variable(inside: str, env: Mapping[str, str]) -> str:
    """Give what stands for the inside of a `${...}`."""
    matched = NAME.match(inside)
    assert matched, inside
    name, rest = matched[0], inside[matched.end() :]
    if not rest:
        return env.get(name, "")
    assert rest.startswith(":-"), f"{inside}: of the forms with a default only :- is read here"
    return env.get(name) or fill(rest[2:], env)


def variables() -> set[str]:
    """Every variable that the file asks for."""
    return set(re.findall(r"\$\{(\w+)", (DOCKER / "compose.yaml").read_text()))
