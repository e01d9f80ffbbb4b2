"""Clients that people use, unmodified, in processes and environments of their own, against a running server."""

import pytest

from tests.clients.conftest import CLIENTS, Run, program

pytestmark = pytest.mark.timeout(900)  # the first test of a client runs all of its program

DONE = [(client, what) for client in CLIENTS for what in program(client).DOINGS]


@pytest.mark.parametrize(("client", "what"), DONE, ids=[f"{client[5:]}-{what}" for client, what in DONE])
def test_the_client_does_it_unmodified(run: Run, client: str, what: str) -> None:
    assert run(client).results[what] == "ok"
