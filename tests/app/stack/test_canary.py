"""A bad policy in canary, in the stack as it is deployed: few see it, and it is gone by itself; a good one serves.

Real processes, the demo model, grades by its users. The bad policy is the base model with every weight disturbed until
nothing it writes is right; the good one is the base model again, under another version.
"""

import logging
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import httpx
import pytest
import torch

from app.stack.stack import Stack
from app.store import checkpoints, policy_life
from app.store.connect import Store, open_store
from training.graders.parse import parse_grader
from training.graders.verdict import Graded
from training.models.checkpoint import publish
from training.models.policy import fingerprint, load_policy
from training.tasks.families import generate
from training.tasks.problem import Problem
from training.tasks.splits import Split

SHARE = 0.06
SETTINGS = {
    "LEPO_PORT": "0",
    "LEPO_MODEL": "demo",
    "LEPO_LEARN": "false",
    "LEPO_MAX_LENGTH": "96",
    "LEPO_MAX_COMPLETION_TOKENS": "24",
    "LEPO_CANARY_SHARE": str(SHARE),
    "LEPO_TRIAL_INTERVAL": "0.2",
    "LEPO_TRIAL_MIN_GRADES": "20",
    "LEPO_TRIAL_MARGIN": "0.3",  # a test has not the time to show less
    "LEPO_CANARY_DEADLINE": "240",
}
SECONDS = 200.0

log = logging.getLogger(__name__)


@dataclass
class Seen:
    """What a user saw."""

    version: int
    right: bool


@dataclass
class Users:
    """Ask and grade, one session a problem."""

    stack: Stack
    key: str
    problems: Iterator[Problem]

    def ask(self, count: int) -> list[Seen]:
        batch = [next(self.problems) for _ in range(count)]
        headers = {"Authorization": f"Bearer {self.key}"}
        with (
            httpx.Client(base_url=self.stack.base_url, headers=headers, timeout=60) as http,
            ThreadPoolExecutor(8) as pool,
        ):
            return list(pool.map(lambda problem: one(http, problem), batch))

    def until(self, over: Callable[[], bool], most: int) -> list[Seen]:
        """Go on asking until something is so; at most so many questions."""
        seen: list[Seen] = []
        while not over() and len(seen) < most:
            seen += self.ask(8)
        return seen


def one(http: httpx.Client, problem: Problem) -> Seen:
    session = f"{random.getrandbits(64):x}"
    asked = {"model": "lepo", "messages": [{"role": "user", "content": problem.prompt}]}
    answered = http.post("/v1/chat/completions", json=asked, headers={"X-Session-Id": session})
    answered.raise_for_status()
    choice = answered.json()["choices"][0]
    verdict = parse_grader(problem.grader).grade(choice["message"]["content"], 5.0)
    right = isinstance(verdict, Graded) and verdict.value == 1.0
    grade = {"value": float(right)}
    http.post(f"/v1/interactions/{choice['interaction_id']}/grades", json=grade).raise_for_status()
    return Seen(choice["policy_version"], right)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("stack"), SETTINGS) as running:
        yield running


@pytest.fixture
def store(stack: Stack) -> Iterator[Store]:
    with closing(open_store(stack.database_url)) as opened:
        yield opened


@pytest.fixture(scope="module")
def users(stack: Stack) -> Users:
    return Users(stack, stack.create_key("users"), iter(generate("chained_arithmetic", Split.TRAIN, 8000, seed=4)))


def candidate(store: Store, var_dir: Path, *, noise: float) -> UUID:
    """Publish the serving policy again with noise on its weights, and put it in canary."""
    with store.session() as session:
        parent = policy_life.serving(session)
        assert parent is not None
        version = checkpoints.next_version(session)
        policy = load_policy(parent.path, version=version, dtype=torch.float32, device="cpu")
        with torch.no_grad():
            for parameter in policy.model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=noise)
        directory = publish(
            policy,
            var_dir / "checkpoints",
            version=version,
            parent_version=parent.version,
            training={},
            created="2026-01-01T00:00:00Z",
        )
        row = checkpoints.publish(
            session, path=str(directory), digest=fingerprint(policy.model), parent_id=parent.id, version=version
        )
        policy_life.move(session, row.id, "canary", "the gate passed it", "test")
        return row.id


def state(store: Store, checkpoint_id: UUID) -> str:
    with store.session() as session:
        return checkpoints.get_checkpoint(session, checkpoint_id).state


def held(stack: Stack) -> bool:
    """Whether the server holds a candidate ready."""
    return 'role="candidate"' in httpx.get(f"{stack.base_url}/metrics", timeout=10).text


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.1)


def test_a_bad_policy_is_seen_by_few_and_rolled_back_by_itself(stack: Stack, store: Store, users: Users) -> None:
    bad = candidate(store, stack.var_dir, noise=0.5)
    wait_for(lambda: held(stack))
    seen = users.until(lambda: state(store, bad) != "canary", most=1600)
    assert state(store, bad) == "rolled_back"
    with store.session() as session:
        move = policy_life.history(session, checkpoint_id=bad)[0]
    assert (move.event, move.actor) == ("roll_back", "trial")
    assert "worse than version 0" in move.reason
    shown = [one for one in seen if one.version != 0]
    log.info("%d of %d requests saw it: %s", len(shown), len(seen), move.reason)
    assert 0 < len(shown) <= 0.10 * len(seen)
    wait_for(lambda: not held(stack))
    after = users.ask(40)
    assert {one.version for one in after} == {0}


def test_a_good_policy_is_promoted(stack: Stack, store: Store, users: Users) -> None:
    good = candidate(store, stack.var_dir, noise=0.0)
    wait_for(lambda: held(stack))
    users.until(lambda: state(store, good) != "canary", most=4000)
    assert state(store, good) == "serving"
    with store.session() as session:
        version = checkpoints.get_checkpoint(session, good).version
        move = policy_life.history(session, checkpoint_id=good)[0]
    log.info("%s", move.reason)
    assert (move.event, move.actor) == ("promote", "trial")
    wait_for(lambda: {one.version for one in users.ask(8)} == {version})
