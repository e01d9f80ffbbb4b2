"""Below HTTP: bytes that are no request, heads without end, requests that stop half-way; the server outlives them."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from app.api.http import wire
from tests.app.api.live import Live

GET = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@contextmanager
def connected(live: Live) -> Iterator[socket.socket]:
    place = urlsplit(live.url)
    with socket.create_connection((place.hostname, place.port or 0), timeout=10) as connection:
        yield connection


def last_words(connection: socket.socket) -> bytes:
    """Everything the server says until it hangs up."""
    said = b""
    while piece := connection.recv(65_536):
        said += piece
    return said


def refusal(answer: bytes) -> tuple[int, str]:
    """Status and code of a refusal in OpenAI's shape."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"]


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT elsewhere:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        GET + b"X-Request-Id: a\nSet-Cookie: b\r\n\r\n",
        GET + b"X-Request-Id: a\r\n b\r\n\r\n",
        GET + b"X-Request-Id: a\x00b\r\n\r\n",
        POST + b"Content-Length: -1\r\n\r\n{}",
        POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
        POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n",
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_not_http_is_refused_in_the_same_shape(live: Live, data: bytes) -> None:
    with connected(live) as connection:
        connection.sendall(data)
        assert refusal(last_words(connection)) == (400, "invalid_http")
    assert live.http().get("/v1/models").status_code == 200


def test_a_head_without_end_is_cut_off(live: Live) -> None:
    """Anyone may open a connection: without a bound, a stranger fills the memory."""
    line = b"X-More: " + b"a" * 8000 + b"\r\n"
    with connected(live) as connection, pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
        connection.sendall(GET + line * (100 * wire.LONGEST_HEAD // len(line)))
    assert live.http().get("/v1/models").status_code == 200


def test_a_long_head_is_told_so(live: Live) -> None:
    with connected(live) as connection:
        connection.sendall(GET + b"X-More: " + b"a" * wire.LONGEST_HEAD)
        assert refusal(last_words(connection)) == (431, "headers_too_large")


@pytest.mark.parametrize(
    "half", [GET, POST + b"Content-Length: 100\r\n\r\n{", POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"]
)
def test_a_request_that_stops_half_way_is_given_up(live: Live, monkeypatch: pytest.MonkeyPatch, half: bytes) -> None:
    monkeypatch.setattr(wire, "ARRIVAL_S", 0.3)
    with connected(live) as connection:
        connection.sendall(half)
        assert refusal(last_words(connection)) == (408, "request_timeout")


def test_a_byte_now_and_then_buys_no_time(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "ARRIVAL_S", 0.4)
    began = time.monotonic()
    with connected(live) as connection:
        connection.sendall(GET + b"X-Slow: ")
        connection.settimeout(0.05)
        said = b""
        while not said and time.monotonic() - began < 5:
            try:
                said = connection.recv(65_536)
            except TimeoutError:
                connection.sendall(b"a")
    assert refusal(said) == (408, "request_timeout")


def test_a_connection_without_a_request_is_closed_without_a_word(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "ARRIVAL_S", 0.2)
    with connected(live) as connection:
        assert last_words(connection) == b""


def test_an_answer_may_take_longer_than_its_question(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is on what arrives; a stray line end while the answer is written does not start it anew."""
    monkeypatch.setattr(wire, "ARRIVAL_S", 0.05)
    body = (
        b'{"model":"lepo","stream":true,"ignore_eos":true,"max_tokens":200,"messages":[{"role":"user","content":"2"}]}'
    )
    key = f"Authorization: Bearer {live.keys['both']}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    began = time.monotonic()
    with connected(live) as connection:
        connection.sendall(POST + key.encode() + body)
        said = connection.recv(65_536)
        connection.sendall(b"\r\n")
        said += last_words(connection)
    assert time.monotonic() - began > 0.05
    assert b"data: [DONE]" in said


def test_no_websocket_is_spoken(live: Live) -> None:
    asked = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "eA==",
    }
    assert live.http(None).get("/v1/admin/keys", headers=asked).status_code == 401
    assert live.http("admin").get("/v1/admin/keys", headers=asked).status_code == 200
