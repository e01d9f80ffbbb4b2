"""The stack of `make serve` under kill -9: what was acknowledged is still there, and service comes back by itself."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import httpx
import pytest
from sqlalchemy import select

from app.identifiers import show
from app.stack.stack import Stack
from app.store.connect import open_store
from app.store.tables import Grade, Interaction
from training.tasks.families import generate
from training.tasks.problem import Problem
from training.tasks.splits import Split

PARTS = ("postgres", "redis", "api", "worker", "beat")
SETTINGS = {
    "LEPO_PORT": "0",
    "LEPO_MODEL": "demo",
    "LEPO_MAX_LENGTH": "128",
    "LEPO_MAX_COMPLETION_TOKENS": "24",
    "LEPO_GRADE_INTERVAL": "0.5",
    "LEPO_LEARN_INTERVAL": "0.5",
    "LEPO_MIN_GRADES": "16",
    "LEPO_MAX_GRADES": "32",
    "LEPO_LEARNING_RATE": "1e-4",
    "LEPO_GATE_NO_SIGNAL": "promote",
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("stack"), SETTINGS) as running:
        yield running


@dataclass
class User:
    """Asks and grades over and over, and remembers what the server said it has."""

    stack: Stack
    key: str
    problems: list[Problem]
    answers: set[str] = field(default_factory=set)  # interaction ids that came back
    grades: set[str] = field(default_factory=set)  # grade ids that came back
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with httpx.Client(
            base_url=self.stack.base_url, headers={"Authorization": f"Bearer {self.key}"}, timeout=20.0
        ) as http:
            for problem in self.problems:
                if self.stop.is_set():
                    return
                try:
                    self.ask(http, problem)
                except httpx.HTTPError:
                    time.sleep(0.1)  # the server is being killed; what it had acknowledged is what counts

    def ask(self, http: httpx.Client, problem: Problem) -> None:
        body = {"model": "lepo", "n": 4, "messages": [{"role": "user", "content": problem.prompt}]}
        answer = http.post("/v1/chat/completions", json=body | {"grader": dict(problem.grader)})
        if not answer.is_success:
            assert answer.status_code in {429, 503}, answer.text
            return
        for choice in answer.json()["choices"]:
            self.answers.add(choice["interaction_id"])
            grade = http.post(
                f"/v1/interactions/{choice['interaction_id']}/grades", json={"value": choice["index"] / 4}
            )
            if grade.is_success:
                self.grades.add(grade.json()["id"])


def kept(stack: Stack) -> tuple[set[str], set[str]]:
    """Ids of the interactions and grades in the database, as the server shows them."""
    with closing(open_store(stack.database_url, pool=1)) as store, store.session() as session:
        interactions = {show("int", id_) for id_ in session.scalars(select(Interaction.id))}
        grades = {show("grade", id_) for id_ in session.scalars(select(Grade.id))}
    return interactions, grades


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Wait for something to hold."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def kill_and_see_it_back(stack: Stack, user: User, part: str) -> None:
    before = len(user.grades)
    old = stack.kill(part)
    assert within(30.0, lambda: stack.pids.get(part, old) != old), f"{part} is started again"
    stack.wait_ready(part)
    assert within(60.0, lambda: len(user.grades) > before + 8), f"it answers again after {part} was killed"


@pytest.mark.timeout(600)
def test_every_part_is_killed_under_load_and_nothing_acknowledged_is_lost(stack: Stack) -> None:
    user = User(stack, stack.create_key("user"), generate("chained_arithmetic", Split.TRAIN, 4000, seed=3))
    thread = threading.Thread(target=user.run)
    thread.start()
    try:
        assert within(60.0, lambda: len(user.grades) > 8), "it answers before anything is killed"
        for part in PARTS:
            kill_and_see_it_back(stack, user, part)
    finally:
        user.stop.set()
        thread.join()
    interactions, grades = kept(stack)
    assert user.answers <= interactions
    assert user.grades <= grades


def test_it_still_learns_afterwards(stack: Stack) -> None:
    headers = {"Authorization": f"Bearer {stack.create_key('view', ('admin',))}"}
    deadline = time.monotonic() + 120.0
    while time.monotonic() < deadline:
        overview = httpx.get(f"{stack.base_url}/v1/admin/overview", headers=headers).json()
        if overview["serving_version"] > 0 and overview["swaps"].get("served", 0) > 0:
            return
        time.sleep(0.5)
    pytest.fail(f"nothing was learned after the kills: {overview}")
