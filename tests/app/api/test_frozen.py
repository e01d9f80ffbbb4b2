"""A Postgres stopped under load for twenty seconds: quick words meanwhile, nothing lost, nothing twice."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import select

from app.stack.postgres import EmbeddedPostgres
from app.stack.supervisor import Supervisor
from app.store.migrate import upgrade
from app.store.tables import Grade, Interaction
from tests.app.api.live import Live, served, wait_for
from tests.conftest import IN_MEMORY_SPEED
from tests.frozen import stopped

FROZEN_S = 20.0
DATABASE_TIMEOUT_S = 3.0
BUSY_S = 4.0  # one in ten may take so much longer on a machine that has more to do
ASK = {"model": "lepo", "messages": [{"role": "user", "content": "2"}], "max_tokens": 3}


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A server of its own: no other test's database is stopped with it."""
    with Supervisor(tmp_path / "servers") as supervisor:
        server = EmbeddedPostgres(supervisor.var_dir, options=IN_MEMORY_SPEED)
        server.prepare()
        supervisor.start(server.child())
        upgrade(server.url())
        yield server


@dataclass
class Said:
    """One response, as its client saw it."""

    at: float  # when it was asked, monotonic seconds
    seconds: float
    status: int
    retry_after: str | None


@dataclass
class Clients:
    """Users of a server who go on asking and grading, and remember what they were told."""

    live: Live
    stop: threading.Event = field(default_factory=threading.Event)
    said: dict[str, list[Said]] = field(default_factory=dict)  # by what was asked for
    answers: list[str] = field(default_factory=list)  # acknowledged interactions
    grades: list[str] = field(default_factory=list)  # acknowledged grades, by their comment
    retried: Counter[str] = field(default_factory=Counter)

    def ask(self) -> None:
        response = self._timed("chat", lambda http: http.post("/v1/chat/completions", json=ASK), key="both")
        if response.status_code == 200:
            self.answers.append(response.json()["choices"][0]["interaction_id"])

    def grade(self) -> None:
        """Grade the first answer until it is acknowledged, always under one key."""
        comment = uuid4().hex
        path = f"/v1/interactions/{self.answers[0]}/grades"
        body, headers = {"value": 1, "comment": comment}, {"Idempotency-Key": comment}
        while True:
            response = self._timed("grade", lambda http: http.post(path, json=body, headers=headers), key="grade")
            if response.status_code == 201:
                self.grades.append(comment)
                return
            assert response.status_code in {409, 503}, response.text
            self.retried[comment] += 1
            time.sleep(0.3)

    def look(self, path: str) -> Callable[[], None]:
        def once() -> None:
            self._timed(path, lambda http: http.get(path), key=None)
            time.sleep(0.2)

        return once

    def first_good(self, what: str, since: float) -> float:
        """Wait for a 200 to something asked after a moment; when it came."""

        def good() -> list[float]:
            return [one.at + one.seconds for one in list(self.said[what]) if one.at > since and one.status == 200]

        wait_for(good, 30)
        return good()[0]

    def _timed(self, what: str, ask: Callable[[httpx.Client], httpx.Response], key: str | None) -> httpx.Response:
        began = time.monotonic()
        response = ask(self.live.http(key))
        seconds = time.monotonic() - began
        said = Said(began, seconds, response.status_code, response.headers.get("retry-after"))
        self.said.setdefault(what, []).append(said)
        return response

    @contextmanager
    def busy(self) -> Iterator[None]:
        kinds = [*[self.ask] * 3, *[self.grade] * 3, self.look("/ready"), self.look("/health")]

        def go_on(work: Callable[[], object]) -> None:
            while not self.stop.is_set():
                work()

        threads = [threading.Thread(target=go_on, args=(work,)) for work in kinds]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join(60)
            assert not any(thread.is_alive() for thread in threads)

    def between(self, what: str, since: float, until: float) -> list[Said]:
        """Find what was under way then."""
        return [one for one in list(self.said[what]) if since < one.at + one.seconds and one.at < until]


def test_a_frozen_postgres_is_told_quickly_and_costs_nothing(
    postgres: EmbeddedPostgres, model_dir: Path, tmp_path: Path
) -> None:
    with served(postgres.url(), model_dir, tmp_path / "var", database_timeout=DATABASE_TIMEOUT_S) as live:
        clients = Clients(live)
        clients.ask()
        with clients.busy():
            wait_for(lambda: len(clients.grades) > 50)
            with stopped(postgres) as since:
                time.sleep(FROZEN_S)
                until = time.monotonic()
            back = {what: clients.first_good(what, until) - until for what in ("chat", "/ready")}
            graded = len(clients.grades)
            wait_for(lambda: len(clients.grades) > graded + 50)
        with live.store.session() as session:
            stored = set(session.scalars(select(Interaction.id)))
            comments = Counter(session.scalars(select(Grade.comment)))

    during = {what: clients.between(what, since, until - DATABASE_TIMEOUT_S) for what in clients.said}
    slowest = {what: worst(said) for what, said in during.items()}
    refused = [one for what in ("chat", "grade") for one in during[what] if one.status == 503]
    assert len(refused) >= 6
    assert all(one.retry_after is not None for one in refused)
    assert {one.status for one in during["/ready"] if one.at > since} == {503}
    assert {one.status for one in during["/health"]} == {200}
    bounds = {"chat": DATABASE_TIMEOUT_S + 2, "grade": DATABASE_TIMEOUT_S + 2, "/ready": 2.0, "/health": 2.0}
    assert all(slowest[what][0] < bound for what, bound in bounds.items()), slowest
    assert all(slowest[what][1] < bound + BUSY_S for what, bound in bounds.items()), slowest
    assert max(back.values()) < 10
    assert {one.removeprefix("int_") for one in clients.answers} <= {one.hex for one in stored}
    assert sum(clients.retried.values()) > 0, "some grade was under way when Postgres stopped"
    assert {comments[comment] for comment in clients.grades} == {1}
    assert len(comments) == len(clients.grades), "a grade that was not acknowledged was retried until it was"


def worst(said: list[Said]) -> tuple[float, float]:
    """Seconds that nine in ten took at most, and that all did."""
    seconds = sorted(one.seconds for one in said)
    return round(seconds[int(0.9 * len(seconds))], 3), round(seconds[-1], 3)
