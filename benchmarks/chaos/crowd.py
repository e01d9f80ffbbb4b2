"""Simulated users in threads of their own, who keep records: what the service acknowledged is what it must still have.

A user asks, judges the answer truly (or, hostile, the opposite) and grades it, again and again until the grade is
acknowledged. Faults of the way there are not counted: only what came back with a success binds the service. Leaves out
what the records are compared with (`benchmarks.chaos.audit`).
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID, uuid4

import httpx

from app.identifiers import read
from benchmarks.online.crowd import is_right
from training.tasks.problem import Problem

PATIENCE_S: Final = 30.0  # of one request
TRIES: Final = 60  # of one grade, under one Idempotency-Key
PAUSE_S: Final = 0.25  # after a request that failed
LATER: Final = frozenset({408, 409, 429, 502, 503, 504})  # statuses that mean "come again"
MOST_WORDS: Final = 5  # surprises kept in words


@dataclass(slots=True)
class Records:
    """What the service acknowledged. Threads add, nobody removes."""

    answers: set[UUID] = field(default_factory=set)  # interactions whose whole answer came back
    grades: dict[UUID, tuple[UUID, float]] = field(default_factory=dict)  # grade -> its interaction and value
    waits_s: list[float] = field(default_factory=list)  # how long each acknowledged grade took, its last try only
    statuses: Counter[int] = field(default_factory=Counter)  # of every response
    surprises: list[str] = field(default_factory=list)  # the first responses that are neither success nor "later"

    def note(self, response: httpx.Response) -> bool:
        """Count a response; returns whether it was a success."""
        self.statuses[response.status_code] += 1
        odd = not response.is_success and response.status_code not in LATER
        if odd and len(self.surprises) < MOST_WORDS:
            self.surprises.append(f"{response.request.url.path}: {response.status_code} {response.text[:200]}")
        return response.is_success


@dataclass(slots=True)
class User:
    """One user with a key of its own."""

    base_url: str
    key: str
    records: Records
    problems: Sequence[Problem]
    rng: random.Random
    hostile: bool = False  # says the opposite of the truth
    think_s: float = 0.05  # mean pause between two questions

    def client(self) -> httpx.Client:
        """Open a connection of its own."""
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.base_url, headers=headers, timeout=PATIENCE_S, trust_env=False)

    def live(self, stop: threading.Event, doors: threading.Event) -> None:
        """Ask and grade until told to stop; while the doors are closed no new question is begun."""
        with self.client() as http:
            while not stop.is_set():
                if not doors.wait(0.1):
                    continue
                if not self.turn(http, stop):
                    stop.wait(PAUSE_S)
                stop.wait(self.think_s * self.rng.uniform(0.5, 1.5))

    def turn(self, http: httpx.Client, stop: threading.Event, n: int = 1) -> bool:
        """Ask one question and grade its answers; returns whether all of it was acknowledged."""
        problem = self.rng.choice(self.problems)
        answered = self.ask(http, problem, n)
        for interaction, text in answered:
            value = float(is_right(problem, text) != self.hostile)
            if not self.grade(http, interaction, value, stop):
                return False
        return bool(answered)

    def ask(self, http: httpx.Client, problem: Problem, n: int = 1, **more: Any) -> list[tuple[UUID, str]]:
        """Ask once; gives the acknowledged answers, none if it failed."""
        body = {"model": "lepo", "messages": [{"role": "user", "content": problem.prompt}], "n": n, **more}
        try:
            response = http.post("/v1/chat/completions", json=body)
        except httpx.HTTPError:
            return []
        if not self.records.note(response):
            return []
        choices = response.json()["choices"]
        found = [(read("int", one["interaction_id"]), one["message"]["content"] or "") for one in choices]
        self.records.answers.update(interaction for interaction, _ in found)
        return found

    def grade(self, http: httpx.Client, interaction: UUID, value: float, stop: threading.Event) -> bool:
        """Grade an answer, until it is acknowledged or the user is told to stop."""
        headers = {"Idempotency-Key": uuid4().hex}
        for _ in range(TRIES):
            began = time.monotonic()
            try:
                path = f"/v1/interactions/int_{interaction.hex}/grades"
                response = http.post(path, json={"value": value}, headers=headers)
            except httpx.HTTPError:
                response = None
            if response is not None and self.records.note(response):
                self.records.grades[read("grade", response.json()["id"])] = (interaction, value)
                self.records.waits_s.append(time.monotonic() - began)
                return True
            if (response is not None and response.status_code not in LATER) or stop.wait(PAUSE_S):
                return False
        return False


class Crowd:
    """All users; use as a context manager."""

    def __init__(self, users: Sequence[User], records: Records) -> None:
        self.records = records
        self.users = users
        self.doors = threading.Event()  # open: questions are asked
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=user.live, args=(self._stop, self.doors)) for user in users]

    def __enter__(self) -> "Crowd":
        self.doors.set()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def visit(user: User, seconds: float) -> int:
    """Let one more user live for a while; returns the questions it got through."""
    stop, turns, until = threading.Event(), 0, time.monotonic() + seconds
    with user.client() as http:
        while time.monotonic() < until:
            turns += user.turn(http, stop)
    return turns
