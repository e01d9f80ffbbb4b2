"""One condition, from an empty directory to its figures: exam, grades, exam, grades, ..., exam.

The exam is sat over HTTP on problems nobody learns from; the crowd waits meanwhile. Leaves out what the figures say
about the product (`benchmarks.online.command`).
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx

from app.demo.asking import stock_client
from app.demo.exam import sit_exam
from app.demo.staging import SETTINGS
from app.demo.tally import Tally
from app.stack.stack import Stack
from app.store.connect import open_store
from benchmarks.online.conditions import Condition, settings_of
from benchmarks.online.crowd import Crowd, User, is_right
from benchmarks.online.ledger import read_ledger
from training.tasks.families import generate
from training.tasks.jsonl import write_problems
from training.tasks.problem import Problem
from training.tasks.splits import Split

FAMILY: Final = "chained_arithmetic"
TRAIN_PROBLEMS: Final = 4000
GATE_PROBLEMS: Final = 100
LOOK_S: Final = 0.2
SETTLE_S: Final = 30.0
VERSIONS_BACK: Final = 5
SPACING: Final[dict[str, str]] = {**SETTINGS, "LEPO_MIN_GRADES": "128", "LEPO_MAX_GRADES": "256"}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is asked, the same in every condition."""

    grades: int  # grades posted in all, >= exams - 1
    exams: int = 5  # evenly spaced over the grades, the first before any, >= 2
    problems: int = 200  # of one exam
    users: int = 20
    seed: int = 0  # of the users' questions, draws and opinions
    limit_s: float = 110.0  # asking stops after this long, however few grades were posted


@dataclass(frozen=True, slots=True)
class Point:
    """One exam."""

    grades: int  # posted before it
    accuracy: float
    low: float  # Wilson, 95%
    high: float
    version: int  # policy version served when it ended


def try_condition(condition: Condition, plan: Plan, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run one condition on a stack of its own, and stop it.

    Returns:
        the condition, its exams, what the users did and what the service made of it; plain JSON.

    """
    began = time.monotonic()
    with TemporaryDirectory(prefix="lepo-online-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        env = {**SPACING, **settings_of(condition)}
        env.pop("LEPO_HELDOUT_SIZE")
        if condition.gated:
            heldout = directory / "heldout.jsonl"
            write_problems(heldout, generate(FAMILY, Split.VALIDATION, GATE_PROBLEMS, seed=0))
            env |= {"LEPO_HELDOUT": str(heldout), "LEPO_HELDOUT_SIZE": str(GATE_PROBLEMS)}
        else:
            env |= {"LEPO_GATE_NO_SIGNAL": "promote"}
        with Stack(directory / "stack", env) as stack:
            made = 1 if condition.lone_key else plan.users
            keys = [stack.create_key(f"user-{index}", ("infer", "grade")) for index in range(made)]
            keys *= plan.users // made
            examiner = stack.create_key("examiner", ("infer", "admin"))
            if condition.lone_key:
                asyncio.run(_come_and_go(stack.base_url, stack.create_key("passer-by")))
            points, counts = asyncio.run(_watch(stack.base_url, keys, examiner, condition, plan, tell))
            hostile = [key_id(key) for key in keys[: hostile_users(condition, plan)]]
            with closing(open_store(stack.database_url, pool=1)) as store, store.session() as session:
                ledger = read_ledger(session, hostile)
    return {
        "condition": asdict(condition),
        "points": [asdict(point) for point in points],
        "gain": points[-1].accuracy - points[0].accuracy,
        "users": counts,
        "service": ledger,
        "seconds": round(time.monotonic() - began, 1),
    }


def hostile_users(condition: Condition, plan: Plan) -> int:
    """How many of the users are hostile; at least one where there shall be any."""
    share = condition.manners.hostile
    return max(1, round(share * plan.users)) if share > 0 else 0


def key_id(key: str) -> str:
    """Name a key by its public part: `lepo-<id>-<secret>`."""
    return key.split("-")[1]


async def _watch(
    base_url: str, keys: Sequence[str], examiner: str, condition: Condition, plan: Plan, tell: Callable[[str], None]
) -> tuple[list[Point], dict[str, Any]]:
    """Let the crowd ask between the exams; returns the exams and what the crowd did."""
    examine_on = generate(FAMILY, Split.TEST, plan.problems, seed=0)
    points: list[Point] = []
    async with (
        _crowd(base_url, keys, condition, plan) as crowd,
        _http(base_url, examiner) as admin,
        _pace(admin, crowd),
    ):
        left_s = plan.limit_s
        for index in range(plan.exams):
            began = time.monotonic()
            await _until_graded(crowd, plan.grades * index // (plan.exams - 1), left_s)
            left_s -= time.monotonic() - began
            if index == plan.exams - 1:
                await crowd.last_grades(lambda words: tell(f"{condition.name}: {words}"))
                await _settled(admin)
            points.append(await _exam(base_url, examiner, admin, examine_on, crowd))
            tell(f"{condition.name}: {points[-1].grades} grades, {points[-1].accuracy:.1%}, v{points[-1].version}")
            if condition.rollback and index == plan.exams // 2:
                tell(f"{condition.name}: {await _roll_back(admin, points[-1].version)}")
        return points, asdict(crowd.counts)


@contextlib.asynccontextmanager
async def _pace(admin: httpx.AsyncClient, crowd: Crowd) -> AsyncIterator[None]:
    """Tell the crowd how often the service updates its policy, while it asks."""

    async def watch() -> None:
        began, asked_s = time.monotonic(), 0.0
        while True:
            await asyncio.sleep(1.0)
            asked_s += (time.monotonic() - began) if crowd.doors.is_set() else 0.0
            began = time.monotonic()
            version = (await admin.get("/version")).json()["policy_version"]
            if version:
                crowd.update_interval_s = asked_s / version

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError, httpx.HTTPError):
            await watching


async def _roll_back(admin: httpx.AsyncClient, version: int) -> str:
    """Do what an operator does who dislikes the last updates: go back several, look, and let it learn on."""
    target = max(0, version - VERSIONS_BACK)
    (await admin.post("/v1/admin/rollback", json={"to": str(target), "reason": "a trial"})).raise_for_status()
    (await admin.post("/v1/admin/learning/thaw", json={"reason": "a trial"})).raise_for_status()
    return f"rolled back from {version} to {target}"


async def _come_and_go(base_url: str, key: str) -> None:
    """Ask one question for four answers, grade them, and never come back."""
    [problem] = generate(FAMILY, Split.TRAIN, 1, seed=99)
    body = {"model": "lepo", "n": 4, "messages": [{"role": "user", "content": problem.prompt}]}
    async with _http(base_url, key) as http:
        answered = (await http.post("/v1/chat/completions", json=body)).raise_for_status().json()
        for choice in answered["choices"]:
            right = is_right(problem, choice["message"]["content"] or "")
            path = f"/v1/interactions/{choice['interaction_id']}/grades"
            (await http.post(path, json={"value": float(right)})).raise_for_status()


async def _until_graded(crowd: Crowd, grades: int, limit_s: float) -> None:
    """Open the doors until so many grades are posted, or the time is up."""
    deadline = time.monotonic() + limit_s
    while crowd.counts.grades < grades and time.monotonic() < deadline:
        crowd.doors.set()
        await asyncio.sleep(LOOK_S)
    crowd.doors.clear()


async def _exam(base_url: str, key: str, admin: httpx.AsyncClient, problems: Sequence[Problem], crowd: Crowd) -> Point:
    tally = Tally()
    graded = crowd.counts.grades
    async with stock_client(base_url, key) as client:
        mark = await sit_exam(client, problems, tally)
    for error in tally.errors:
        crowd.counts.fail(f"exam: {error}")
    low, high = mark.interval
    version = (await admin.get("/version")).json()["policy_version"]
    return Point(graded, mark.accuracy, low, high, version)


async def _settled(admin: httpx.AsyncClient) -> None:
    """Wait, within reason, until no update runs and the server serves what the database says it should."""
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        overview = (await admin.get("/v1/admin/overview")).json()
        served = (await admin.get("/version")).json()["policy_version"]
        if overview["current_job"] is None and served == overview["serving_version"]:
            return
        await asyncio.sleep(LOOK_S)


@contextlib.asynccontextmanager
async def _crowd(base_url: str, keys: Sequence[str], condition: Condition, plan: Plan) -> AsyncIterator[Crowd]:
    """Gather the users, each with a client of its own, and send them home at the end."""
    async with contextlib.AsyncExitStack() as open_clients:
        hostile = hostile_users(condition, plan)
        users = [
            User(
                index,
                await open_clients.enter_async_context(_http(base_url, key)),
                hostile=index < hostile,
                pace=condition.manners.hostile_pace if index < hostile else 1.0,
            )
            for index, key in enumerate(keys)
        ]
        crowd = Crowd(
            users, generate(FAMILY, Split.TRAIN, TRAIN_PROBLEMS, seed=plan.seed), condition.manners, plan.seed
        )
        living = asyncio.create_task(crowd.live())
        try:
            yield crowd
        finally:
            living.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await living


def _http(base_url: str, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=base_url, headers={"Authorization": f"Bearer {key}"}, timeout=60.0)
