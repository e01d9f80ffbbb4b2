"""Clients that people use, unmodified, in processes and environments of their own, against a running server."""

import re

import pytest

from tests.clients.conftest import CLIENTS, OURS, Run, program
from tests.clients.table import OWN_PINS, PAGE, PINS, pinned

pytestmark = pytest.mark.timeout(900)  # the first test of a client runs all of its program

DONE = [(client, what) for client in CLIENTS for what in program(client).DOINGS]


@pytest.mark.parametrize(("client", "what"), DONE, ids=[f"{client[5:]}-{what}" for client, what in DONE])
def test_the_client_does_it_unmodified(run: Run, client: str, what: str) -> None:
    assert run(client).results[what] == "ok"


def test_the_committed_table_is_of_these_clients_at_the_pinned_versions() -> None:
    rows = re.findall(r"^\| (\S+) \| (\S+) \| (.+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    expected = []
    for client, what in DONE:
        package = program(client).PACKAGE
        expected.append((package, pinned(package, OWN_PINS if client in OURS else PINS), what, "ok"))
    header = ("client", "version", "what was done", "result")
    assert [row for row in rows if row != header] == expected, "run: make clients"
