"""One condition, from an empty directory to its figures: exam, grades, exam, grades, ..., exam.

The exam is sat over HTTP on problems nobody learns from; the crowd waits meanwhile. Where grades come late, asking ends
by answers, as many as the clean condition has; then late grades have a bounded time to come in, and learning to come to
rest. Leaves out the bad update (`benchmarks.online.episode`) and what the figures say about the product
(`benchmarks.online.command`).
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, Final

import httpx

from app.demo.asking import stock_client
from app.demo.exam import sit_exam
from app.demo.scenes import TOY
from app.demo.tally import Tally
from app.stack.stack import Stack
from app.store.connect import Store, open_store
from benchmarks.online.conditions import Condition, settings_of
from benchmarks.online.crowd import Crowd, User, is_right
from benchmarks.online.episode import Episode, play, read_row
from benchmarks.online.ledger import read_ledger
from training.tasks.families import generate
from training.tasks.jsonl import write_problems
from training.tasks.problem import Problem
from training.tasks.splits import Split

FAMILY: Final = "chained_arithmetic"
TRAIN_PROBLEMS: Final = 4000
GATE_PROBLEMS: Final = 100
LOOK_S: Final = 0.2
SETTLE_S: Final = 60.0  # most time for learning to come to rest
REST_S: Final = 3.0  # without an update that runs, or a new version: several looks of the learner
TAIL_DELAYS: Final = 3.0  # mean delays after the last answer in which late grades come in; 5% of those left are later
TAIL_S: Final = 10.0  # the least of that
VERSIONS_BACK: Final = 3  # what they were made from stays spent: of eleven updates a quarter
FORM: Final = MappingProxyType(
    {"type": "string_check", "operation": "like", "reference": "Answer:"}
)  # not what is right
SPACING: Final[dict[str, str]] = {**TOY.environment, "LEPO_MIN_GRADES": "128", "LEPO_MAX_GRADES": "256"}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is asked, the same in every condition."""

    grades: int  # grades posted in all, >= exams - 1; where they come late, answers
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


def try_condition(
    condition: Condition, plan: Plan, tell: Callable[[str], None], interval_s: float = 0.0
) -> dict[str, Any]:
    """Run one condition on a stack of its own, and stop it.

    Args:
        condition: which.
        plan: how much of it.
        tell: says how far it is.
        interval_s: between two updates of the clean condition, where grades come late by such intervals.

    Returns:
        the condition, its exams, what the users did and what the service made of it; plain JSON.

    """
    began = time.monotonic()
    with TemporaryDirectory(prefix="lepo-online-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        with Stack(directory / "stack", environment(condition, directory)) as stack:
            made = 1 if condition.lone_key else plan.users
            keys = [stack.create_key(f"user-{index}", ("infer", "grade")) for index in range(made)]
            keys *= plan.users // made
            examiner = stack.create_key("examiner", ("infer", "admin"))
            if condition.lone_key:
                asyncio.run(_come_and_go(stack.base_url, stack.create_key("passer-by")))
            delay_s = condition.manners.delay_s + condition.manners.delay_updates * interval_s
            course = Course(stack.base_url, examiner, condition, plan, tell, delay_s)
            with closing(open_store(stack.database_url, pool=1)) as store:
                asyncio.run(course.run(keys, store))
                with store.session() as session:
                    hostile = [key_id(key) for key in keys[: hostile_users(condition, plan)]]
                    ledger = read_ledger(session, hostile)
                    bad = None if course.episode is None else read_row(session, course.episode)
    points = course.points
    return {
        "condition": asdict(condition),
        "seed": plan.seed,
        "points": [asdict(point) for point in points],
        "gain": points[-1].accuracy - points[0].accuracy,
        "users": course.counts,
        "service": ledger,
        "asked_s": round(course.asked_s, 1),
        "update_interval_s": course.asked_s / updates if (updates := ledger["verdicts"].get("promoted", 0)) else None,
        "delay_s": round(delay_s, 1),
        "waited_for_grades_s": round(course.tail_s, 1),
        "at_rest": course.at_rest,
        "rollback": course.rollback,
        "bad_update": bad,
        "seconds": round(time.monotonic() - began, 1),
    }


def environment(condition: Condition, directory: Path) -> dict[str, str]:
    """Write a condition as the service's environment, its held-out problems in a file beside."""
    env = {**SPACING, **settings_of(condition)}
    env.pop("LEPO_HELDOUT_SIZE")
    if not condition.gated:
        return {**env, "LEPO_GATE_NO_SIGNAL": "promote"}
    heldout = directory / "heldout.jsonl"
    problems = generate(FAMILY, Split.VALIDATION, GATE_PROBLEMS, seed=0)
    write_problems(heldout, [replace(one, grader=dict(FORM)) for one in problems] if condition.poisoned else problems)
    return {**env, "LEPO_HELDOUT": str(heldout), "LEPO_HELDOUT_SIZE": str(GATE_PROBLEMS)}


def hostile_users(condition: Condition, plan: Plan) -> int:
    """How many of the users are hostile; at least one where there shall be any."""
    share = condition.manners.hostile
    return max(1, round(share * plan.users)) if share > 0 else 0


def key_id(key: str) -> str:
    """Name a key by its public part: `lepo-<id>-<secret>`."""
    return key.split("-")[1]


class Course:
    """A condition as it runs: the crowd asks between the exams."""

    def __init__(
        self,
        base_url: str,
        examiner: str,
        condition: Condition,
        plan: Plan,
        tell: Callable[[str], None],
        delay_s: float,
    ) -> None:
        self.points: list[Point] = []
        self.counts: dict[str, Any] = {}  # what the crowd did
        self.asked_s = 0.0  # for how long the doors were open
        self.tail_s = 0.0  # for how long late grades were waited for after that
        self.at_rest = ""  # why nothing is learned in the end
        self.episode: Episode | None = None  # of the bad update
        self.rollback: tuple[int, int] | None = None  # from which version to which
        self._base_url = base_url
        self._examiner = examiner
        self._condition = condition
        self._plan = plan
        self._tell = tell
        self._delay_s = delay_s

    async def run(self, keys: Sequence[str], store: Store) -> None:
        """Go from the first exam to the last."""
        async with (
            _crowd(self._base_url, keys, self._condition, self._plan, self._delay_s) as crowd,
            _http(self._base_url, self._examiner) as admin,
        ):
            if self._condition.poisoned:
                await self._poison(crowd, admin, store)
            else:
                going_back = asyncio.create_task(self._go_back(crowd, admin)) if self._condition.rollback else None
                await self._ask(crowd, admin)
                if going_back is not None:
                    going_back.cancel()  # where fewer than half of the grades have come
                    with contextlib.suppress(asyncio.CancelledError):
                        await going_back
            self.counts = asdict(crowd.counts)

    async def _ask(self, crowd: Crowd, admin: httpx.AsyncClient) -> None:
        """Exams evenly spaced over what is asked."""
        plan, last = self._plan, self._plan.exams - 1
        for index in range(plan.exams):
            began = time.monotonic()
            await _until(crowd, plan.grades * index // last, plan.limit_s - self.asked_s, answers=self._by_answers)
            self.asked_s += time.monotonic() - began
            if index == last:
                await self._come_to_rest(crowd, admin)
            await self._examine(crowd, admin)

    async def _go_back(self, crowd: Crowd, admin: httpx.AsyncClient) -> None:
        """Roll several versions back when half of the grades have come: late as they are, no sooner are there any."""
        await crowd.graded(self._plan.grades // 2)
        version = (await admin.get("/version")).json()["policy_version"]
        self.rollback = (version, await _roll_back(admin, version))
        self._say(f"rolled back from {version} to {self.rollback[1]}")

    async def _poison(self, crowd: Crowd, admin: httpx.AsyncClient, store: Store) -> None:
        """Examine, play the episode of the bad update, and examine what serves after it."""
        await self._examine(crowd, admin)
        began = time.monotonic()
        self.episode = await play(crowd, admin, store, self._say)
        self.asked_s = time.monotonic() - began
        await self._come_to_rest(crowd, admin)
        await self._examine(crowd, admin)

    async def _come_to_rest(self, crowd: Crowd, admin: httpx.AsyncClient) -> None:
        """Wait for late grades, in bounded time, and for learning to end."""
        began = time.monotonic()
        await crowd.last_grades(self._say, max(TAIL_S, TAIL_DELAYS * self._delay_s))
        self.tail_s = time.monotonic() - began
        self.at_rest = await _settled(admin)
        self._say(f"at rest: {self.at_rest}")

    async def _examine(self, crowd: Crowd, admin: httpx.AsyncClient) -> None:
        problems = generate(FAMILY, Split.TEST, self._plan.problems, seed=0)
        point = await _exam(self._base_url, self._examiner, admin, problems, crowd)
        self.points.append(point)
        self._say(f"{point.grades} grades, {point.accuracy:.1%}, v{point.version}")

    @property
    def _by_answers(self) -> bool:
        return self._condition.by_answers

    def _say(self, words: str) -> None:
        self._tell(f"{self._condition.name}, seed {self._plan.seed}: {words}")


async def _roll_back(admin: httpx.AsyncClient, version: int) -> int:
    """Do what an operator does who dislikes the last updates: go back several, look, and let it learn on.

    Returns:
        the version that serves then.

    """
    target = max(0, version - VERSIONS_BACK)
    assert target < version, "there is nothing to go back from"
    (await admin.post("/v1/admin/rollback", json={"to": str(target), "reason": "a trial"})).raise_for_status()
    (await admin.post("/v1/admin/learning/thaw", json={"reason": "a trial"})).raise_for_status()
    return target


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


async def _until(crowd: Crowd, wanted: int, limit_s: float, *, answers: bool) -> None:
    """Open the doors until so many grades are posted, or answers given, or the time is up."""
    deadline = time.monotonic() + limit_s
    while (crowd.counts.answers if answers else crowd.counts.grades) < wanted and time.monotonic() < deadline:
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


async def _settled(admin: httpx.AsyncClient) -> str:
    """Wait, within reason, until nothing is learned any more and the server serves what the database says it should.

    Returns:
        why nothing is learned, in the service's words.

    """
    deadline = time.monotonic() + SETTLE_S
    quiet_since, before = time.monotonic(), -1
    while time.monotonic() < deadline and time.monotonic() - quiet_since < REST_S:
        overview = (await admin.get("/v1/admin/overview")).json()
        served = (await admin.get("/version")).json()["policy_version"]
        if overview["current_job"] is not None or served != overview["serving_version"] or served != before:
            quiet_since, before = time.monotonic(), served
        await asyncio.sleep(LOOK_S)
    return str((await admin.get("/v1/admin/learning")).json()["waiting_for"])


@contextlib.asynccontextmanager
async def _crowd(
    base_url: str, keys: Sequence[str], condition: Condition, plan: Plan, delay_s: float
) -> AsyncIterator[Crowd]:
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
        problems = generate(FAMILY, Split.TRAIN, TRAIN_PROBLEMS, seed=plan.seed)
        crowd = Crowd(users, problems, condition.manners, plan.seed, delay_s)
        living = asyncio.create_task(crowd.live())
        try:
            yield crowd
        finally:
            living.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await living


def _http(base_url: str, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=base_url, headers={"Authorization": f"Bearer {key}"}, timeout=60.0)
