"""The command line against a running server: what it prints, and what it changed."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.app.api.conftest import live, model_dir
from tests.app.api.live import Live
from tests.app.test_cli import lepo

__all__ = ["live", "model_dir"]

Said = Callable[..., tuple[int, str]]
Read = Callable[..., Any]


@pytest.fixture
def said(live: Live) -> Said:
    """Run `lepo` with the service's address and an admin key; gives status and output."""

    def run(*arguments: str, key: str = "admin") -> tuple[int, str]:
        return lepo(*arguments, LEPO_URL=live.url, LEPO_API_KEY=live.keys[key])

    return run


@pytest.fixture
def read(said: Said) -> Read:
    """Run it with --json; gives what it printed, parsed."""

    def run(*arguments: str, key: str = "admin") -> Any:
        code, output = said(*arguments, "--json", key=key)
        assert code == 0, output
        return json.loads(output)

    return run
