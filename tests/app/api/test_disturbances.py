"""What goes wrong around an answer: clients leave, queues fill, Postgres goes away, engines fail, servers stop."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from openai import APIError, OpenAI
from psycopg import sql
from sqlalchemy import make_url, select

from app.engine.request import Crashed
from app.store.interactions import Filters, list_interactions
from app.store.tables import Interaction
from tests.app.api.live import CONTEXT, Live, served, sse, wait_for

LONG: dict[str, Any] = {"max_tokens": CONTEXT - 60, "ignore_eos": True}
ASK: dict[str, Any] = {"model": "lepo", "messages": [{"role": "user", "content": "2"}]}


@pytest.fixture
def narrow(database_url: str, model_dir: Path, tmp_path: Path) -> Iterator[Live]:
    """A server with two slots and one place to wait."""
    with served(database_url, model_dir, tmp_path, slots=2, max_waiting=1) as server:
        yield server


def interactions(live: Live) -> list[Interaction]:
    with live.store.session() as session:
        return [row for row, _ in list_interactions(session, Filters()).items]


def ended(connection: socket.socket) -> bool:
    """Read on; whether the other side closed before the time-out."""
    try:
        while connection.recv(65_536):
            pass
    except TimeoutError:
        return False
    return True


def test_a_client_that_leaves_frees_its_slots_and_its_words_are_kept(narrow: Live) -> None:
    with narrow.http().stream("POST", "/v1/chat/completions", json={**ASK, **LONG, "n": 2, "stream": True}) as response:
        next(response.iter_lines())
    wait_for(lambda: narrow.engine.stats().running == 0)
    wait_for(lambda: len(interactions(narrow)) == 2)
    for row in interactions(narrow):
        assert (row.finish_reason, row.learnable, row.unlearnable_reason) == ("cancelled", False, "cancelled")
        assert row.usage["completion_tokens"] < LONG["max_tokens"]


def test_a_client_that_leaves_without_streaming_frees_its_slots_too(narrow: Live) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{narrow.url}/v1/chat/completions",
            json={**ASK, **LONG},
            headers={"Authorization": f"Bearer {narrow.keys['both']}"},
            timeout=httpx.Timeout(5, read=0.05),
        )
    wait_for(lambda: [row.finish_reason for row in interactions(narrow)] == ["cancelled"])


def test_a_full_queue_is_a_429_that_says_when_to_come_back(narrow: Live) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: narrow.chat(**LONG), range(6)))
    by_status = {status: [a for a in answers if a.status_code == status] for status in (200, 429)}
    assert len(by_status[200]) + len(by_status[429]) == 6
    assert by_status[429], "six answers do not fit two slots and one place to wait"
    for refused in by_status[429]:
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "queue_full"
    assert len(interactions(narrow)) == len(by_status[200])


def test_an_answer_that_waits_past_its_deadline_is_a_503(database_url: str, model_dir: Path, tmp_path: Path) -> None:
    with served(database_url, model_dir, tmp_path, slots=1, request_deadline=0.1, max_waiting=8) as live:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: live.chat(**LONG), range(8)))
        late = [answer for answer in answers if answer.status_code == 503]
        assert late
        assert {answer.json()["error"]["code"] for answer in late} == {"deadline_exceeded"}
        assert all(answer.headers["retry-after"] for answer in late)
        assert len(interactions(live)) == 8
        assert any(row.unlearnable_reason == "deadline" for row in interactions(live))


@pytest.fixture
def doomed(postgres_url: str, database_url: str, model_dir: Path, tmp_path: Path) -> Iterator[tuple[Live, "Gate"]]:
    """A server whose database can be closed and opened again."""
    with served(database_url, model_dir, tmp_path) as live:
        yield live, Gate(postgres_url, str(make_url(database_url).database))


class Gate:
    """Refuses connections to one database, and ends those it has."""

    def __init__(self, server: str, database: str) -> None:
        self.address = make_url(server).set(drivername="postgresql").render_as_string(hide_password=False)
        self.database = database

    def open(self, *, yes: bool) -> None:
        with psycopg.connect(self.address, autocommit=True) as connection:
            words = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
            connection.execute(words.format(sql.Identifier(self.database), sql.SQL("true" if yes else "false")))
            if not yes:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (self.database,)
                )


def test_without_its_database_no_id_leaves_and_serving_resumes_by_itself(doomed: tuple[Live, Gate]) -> None:
    live, gate = doomed
    live.answer()
    gate.open(yes=False)
    whole = live.chat(max_tokens=3)  # the key is still believed, so the engine answers and the commit fails
    assert (whole.status_code, whole.json()["error"]["code"]) == (503, "unavailable")
    assert whole.headers["retry-after"]
    with live.http().stream("POST", "/v1/chat/completions", json={**ASK, "max_tokens": 3, "stream": True}) as response:
        events = sse(response) if response.status_code == 200 else [response.read().decode()]
    assert "interaction_id" not in "".join(events)
    assert any('"error"' in event for event in events)
    assert live.http(None).get("/ready").status_code == 503
    assert live.http(None).get("/health").status_code == 200
    gate.open(yes=True)
    wait_for(lambda: live.http(None).get("/ready").status_code == 200)
    stored = live.answer()["choices"][0]["interaction_id"]
    assert live.http().get(f"/v1/interactions/{stored}").status_code == 200


def test_the_stock_client_hears_of_an_error_inside_a_stream(
    doomed: tuple[Live, Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    live, gate = doomed
    live.answer()
    step = live.engine._lanes.serving.step

    def slow(*args: Any, **named: Any) -> Any:
        time.sleep(0.01)  # else the answer may be stored before the database is closed
        return step(*args, **named)

    monkeypatch.setattr(live.engine._lanes.serving, "step", slow)
    with OpenAI(base_url=f"{live.url}/v1", api_key=live.keys["both"], max_retries=0) as client:
        stream = client.chat.completions.create(**ASK, max_tokens=150, stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        gate.open(yes=False)
        with pytest.raises(APIError, match="Postgres does not answer"):
            list(stream)
    gate.open(yes=True)


def test_a_failed_engine_is_told_and_ends_the_server(
    database_url: str, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(database_url, model_dir, tmp_path) as live:

        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("the accelerator fell off")

        monkeypatch.setattr(live.engine._lanes.serving, "step", fail)
        answer = live.chat()
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_error")
        assert "accelerator" not in answer.text
        assert Crashed.__name__ not in answer.text
        wait_for(lambda: live.httpd.failure is not None)
        assert live.httpd.failure is not None
        assert "accelerator" in live.httpd.failure
        wait_for(lambda: refuses(live.url))


def refuses(url: str) -> bool:
    """Whether nobody listens there any more."""
    try:
        httpx.get(f"{url}/health")
    except httpx.ConnectError:
        return True
    return False


def test_a_stopping_server_lets_answers_finish(database_url: str, model_dir: Path, tmp_path: Path) -> None:
    with served(database_url, model_dir, tmp_path, drain_seconds=20) as live:
        with live.http().stream("POST", "/v1/chat/completions", json={**ASK, **LONG, "stream": True}) as response:
            lines = response.iter_lines()
            next(lines)
            live.httpd.should_exit = True
            events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"
        assert len(interactions(live)) == 1


def test_a_stopping_server_records_what_it_must_cut_short(database_url: str, model_dir: Path, tmp_path: Path) -> None:
    with served(database_url, model_dir, tmp_path, drain_seconds=0, slots=1) as live:
        results: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: results.append(live.chat(**LONG)))
        asking.start()
        wait_for(lambda: live.engine.stats().running == 1)
        live.httpd.should_exit = True
        asking.join()
        assert results[0].status_code == 200
        with live.store.session() as session:
            rows = list(session.scalars(select(Interaction)))
    assert [row.finish_reason for row in rows] == ["cancelled"]


@pytest.mark.parametrize(("keep_alive_seconds", "closes"), [(1, True), (30, False)])
def test_an_idle_connection_stays_open_as_long_as_the_setting_says(
    database_url: str, model_dir: Path, tmp_path: Path, keep_alive_seconds: int, closes: bool
) -> None:
    with served(database_url, model_dir, tmp_path, keep_alive_seconds=keep_alive_seconds) as live:
        address = live.http().base_url
        with socket.create_connection((address.host, address.port or 80), timeout=2.5) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: lepo\r\n\r\n")
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
            assert ended(connection) is closes
