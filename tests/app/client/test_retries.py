"""What is sent again, what is not, and how long is waited: against a real socket that answers as it is told."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from app.client import Lepo, LepoRefused, LepoUnreachable, Retries
from app.client.retries import seconds_asked

GRADED = b'{"id": "g", "interaction_id": "i", "state": "graded", "value": 1.0, "comment": null, "correction": null}'
QUICK = Retries(times=3, first_s=0.01, longest_s=1.0)
HANG_UP = 0  # in the place of a status


@dataclass
class Moody:
    """A server that answers with the statuses it was told, one after another."""

    port: int
    moods: list[tuple[int, dict[str, str]]]
    keys: list[str | None] = field(default_factory=list)  # Idempotency-Key of each request
    times: list[float] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def moody(*moods: tuple[int, dict[str, str]]) -> Iterator[Moody]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            server.keys.append(self.headers.get("idempotency-key"))
            server.times.append(time.monotonic())
            status, headers = server.moods.pop(0)
            if status == HANG_UP:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(GRADED)))
            self.end_headers()
            self.wfile.write(GRADED)

        def log_message(self, *_args: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server = Moody(http.server_address[1], list(moods))
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()


OK: tuple[int, dict[str, str]] = (201, {})


def grade(server: Moody, retries: Retries = QUICK) -> float | None:
    with Lepo(server.url, "k", retries=retries) as lepo:
        return lepo.grade("int_1", 1).value


def test_a_grade_is_sent_again_under_the_same_key() -> None:
    with moody((503, {}), (HANG_UP, {}), (502, {}), OK) as server:
        assert grade(server) == 1.0
    assert len(server.keys) == 4
    assert server.keys[0] is not None
    assert set(server.keys) == {server.keys[0]}


def test_two_grades_have_two_keys() -> None:
    with moody(OK, OK) as server:
        grade(server)
        grade(server)
    assert len(set(server.keys)) == 2


def test_retry_after_is_waited_for() -> None:
    with moody((429, {"Retry-After": "1"}), OK) as server:
        grade(server)
    assert 1.0 <= server.times[1] - server.times[0] < 3.0


def test_a_wait_beyond_patience_is_an_error_at_once() -> None:
    with moody((429, {"Retry-After": "60"})) as server, pytest.raises(LepoRefused) as refused:
        grade(server)
    assert refused.value.status == 429
    assert len(server.times) == 1


def test_patience_ends() -> None:
    with moody(*[(503, {})] * 9) as server, pytest.raises(LepoRefused):
        grade(server)
    assert len(server.times) == 1 + QUICK.times


@pytest.mark.parametrize(
    ("moods", "sent"),
    [([(HANG_UP, {})], 1), ([(502, {})], 1), ([(503, {})], 1), ([(429, {}), (400, {})], 2)],
    ids=["lost", "bad gateway", "unavailable", "too many"],
)
def test_a_question_is_sent_again_only_where_it_was_not_begun(
    moods: list[tuple[int, dict[str, str]]], sent: int
) -> None:
    """An answer costs, and is remembered: one that may have been given is not asked for twice."""
    refused = pytest.raises((LepoRefused, LepoUnreachable))
    with moody(*moods) as server, Lepo(server.url, "k", retries=QUICK) as lepo, refused:
        lepo.answer("?")
    assert len(server.times) == sent


def test_what_is_wrong_is_not_sent_again() -> None:
    with moody((400, {})) as server, pytest.raises(LepoRefused):
        grade(server)
    assert len(server.times) == 1


def test_retry_after_is_read_in_both_forms() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    assert seconds_asked("7") == 7
    assert 17 < (seconds_asked(soon) or 0) <= 20
    assert seconds_asked("soon") is None
    assert seconds_asked(None) is None


def test_waits_grow_and_end() -> None:
    patient = Retries(times=9, first_s=1.0, longest_s=4.0)
    waits = [patient.wait_after(None, attempt, safe=True) or 0.0 for attempt in range(1, 10)]
    for wait, most in zip(waits, (1, 2, 4, 4, 4, 4, 4, 4, 4), strict=True):
        assert most / 2 <= wait <= most
    assert patient.wait_after(None, 10, safe=True) is None
