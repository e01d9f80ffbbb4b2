"""Readers that are slow, stalled or dead: answers are stored all the same, memory is bounded, the connection ends."""

import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import func, select

from app.api.http import wire
from app.api.openai import stream
from app.store.tables import Interaction
from tests.app.api.live import Live, wait_for

# Each token with twenty others beside it is two kilobytes of events.
LOUD: dict[str, Any] = {"ignore_eos": True, "logprobs": True, "top_logprobs": 20, "stream": True, "seed": 3}
END = b"\r\n0\r\n\r\n"
KERNEL_BYTES = 8 << 20  # more than the two ends of a loopback connection hold


@contextmanager
def asked(live: Live, tag: str, **body: Any) -> Iterator[socket.socket]:
    """A connection on which a request was sent and nothing is read."""
    content = json.dumps(
        {"model": "lepo", "messages": [{"role": "user", "content": "2"}], **LOUD, "user": tag, **body}
    ).encode()
    address = live.http().base_url
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: lepo\r\nAuthorization: Bearer {live.keys['both']}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect((address.host, address.port or 80))
        connection.sendall(head.encode() + content)
        yield connection


def stored(live: Live, tag: str) -> int:
    with live.store.session() as session:
        return session.scalars(select(func.count()).where(Interaction.user_tag == tag)).one()


def read_all(connection: socket.socket, pause_s: float = 0.0) -> bytes:
    """Read to the end of the response, or of the connection where that comes first."""
    pieces = [b"", b""]
    while not b"".join(pieces[-2:]).endswith(END):
        piece = connection.recv(1 << 18)
        if not piece:
            break
        pieces.append(piece)
        time.sleep(pause_s)
    return b"".join(pieces)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "UNREAD_S", 60.0)


@pytest.mark.usefixtures("patient")
def test_answers_are_stored_before_anything_of_them_is_read(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MOST_UNREAD", 64 << 20)
    with asked(live, "stalled", n=48, max_tokens=150) as connection:
        wait_for(lambda: stored(live, "stalled") == 48, 60)
        response = read_all(connection)
    assert len(response) > KERNEL_BYTES, "it did not fit where it could have waited without us"
    assert response.count(b'"interaction_id":"int_') == 48
    assert b"data: [DONE]" in response


@pytest.mark.usefixtures("patient")
def test_what_waits_for_a_reader_is_bounded_and_it_is_told(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MOST_UNREAD", 1 << 20)
    with asked(live, "behind", n=48, max_tokens=150) as connection:
        wait_for(lambda: stored(live, "behind") == 48, 60)
        wait_for(lambda: live.engine.stats().running == 0)
        response = read_all(connection)
    assert len(response) < KERNEL_BYTES + (2 << 20)
    assert b'"code": "client_too_slow"' in response
    assert response.count(b"data: [DONE]") == 1
    assert live.answer()["choices"], "others are answered as before"


def test_a_dead_reader_is_hung_up_on(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "UNREAD_S", 1.0)
    connections = live.httpd.server_state.connections
    before = set(connections)
    with asked(live, "dead", n=48, max_tokens=150) as connection:
        wait_for(lambda: connections - before)
        wait_for(lambda: stored(live, "dead") == 48, 60)
        wait_for(lambda: not connections - before)
        assert not read_all(connection).endswith(END)


def test_a_slow_reader_gets_all_of_it(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "UNREAD_S", 3.0)
    monkeypatch.setattr(stream, "MOST_UNREAD", 64 << 20)
    with asked(live, "slow", n=48, max_tokens=150) as connection:
        began = time.monotonic()
        response = read_all(connection, pause_s=0.002)
    assert response.endswith(END)
    assert time.monotonic() - began > wire.UNREAD_S, "slower than the bound, and reading"


def test_a_reader_that_resets_leaves_its_answers_stored(live: Live) -> None:
    with asked(live, "reset", n=8, max_tokens=150) as connection:
        connection.recv(1024)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(lambda: stored(live, "reset") == 8, 30)
