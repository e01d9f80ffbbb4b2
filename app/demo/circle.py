"""The demo read aloud: start, sit the exam, let users ask and grade while the service learns, sit it again."""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from openai import AsyncOpenAI
from rich.console import Console
from rich.live import Live

from app.demo import view
from app.demo.asking import stock_client
from app.demo.exam import Mark, sit_exam
from app.demo.plot import Reading, plot_learning_curve
from app.demo.summary import Summary
from app.demo.tally import Tally
from app.demo.users import be_a_user
from training.tasks.problem import Problem

LOOK_S = 1.0
SETTLE_S = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how hard the demo runs."""

    directory: Path  # where the plot and the summary go
    learn_s: float  # seconds of serving and learning between the exams, > 0
    users: int  # simulated users at once, >= 1
    choices: int  # answers per question, >= 2 gives the group baseline
    think_s: float  # mean seconds a user thinks between questions
    latent_length: int  # the server's latent steps, for the summary


@dataclass(slots=True)
class Circle:
    """One run against a stack that is up at `base_url`."""

    plan: Plan
    base_url: str
    user_key: str  # scopes infer and grade
    admin_key: str  # reads the overview
    learn_from: Sequence[Problem]
    examine_on: Sequence[Problem]
    console: Console
    began: float  # monotonic seconds at which the first process was started
    tally: Tally = field(default_factory=Tally)
    readings: list[Reading] = field(default_factory=list)

    async def run(self) -> Summary:
        """Run the whole circle and write its plot and summary."""
        client = stock_client(self.base_url, self.user_key)
        async with client, self._http(self.user_key) as http, self._http(self.admin_key) as admin:
            self.console.print(f"Exam before learning: {len(self.examine_on)} held-out problems over HTTP ...")
            before = await sit_exam(client, self.examine_on, self.tally)
            self.console.print(f"  {before.correct} of {before.total} right ({before.accuracy:.1%})")
            await self._serve_and_learn(client, http, admin)
            await self._settle(admin)
            self.console.print("Exam after learning: the same problems and seeds ...")
            after = await sit_exam(client, self.examine_on, self.tally)
            self.console.print(f"  {after.correct} of {after.total} right ({after.accuracy:.1%})")
            summary = self._summary(before, after, await self._overview(admin))
        plot_learning_curve(self.plan.directory / "learning_curve.png", self.readings, before, after)
        summary.write(self.plan.directory / "summary.json")
        return summary

    async def _serve_and_learn(self, client: AsyncOpenAI, http: httpx.AsyncClient, admin: httpx.AsyncClient) -> None:
        """Let the users loose until the time is up, watching all the while."""
        stop = asyncio.Event()
        plan = self.plan
        async with asyncio.TaskGroup() as group:
            for name in range(plan.users):
                group.create_task(
                    be_a_user(
                        name,
                        client,
                        http,
                        self.learn_from,
                        self.tally,
                        stop,
                        choices=plan.choices,
                        think_s=plan.think_s,
                    )
                )
            await self._watch(admin)
            stop.set()

    async def _watch(self, admin: httpx.AsyncClient) -> None:
        start = time.monotonic()
        with self._live() as show:
            while (elapsed := time.monotonic() - start) < self.plan.learn_s:
                overview = await self._overview(admin)
                self.readings.append(_reading(overview, elapsed))
                show.look(overview, self.plan.learn_s - elapsed)
                await asyncio.sleep(LOOK_S)

    async def _settle(self, admin: httpx.AsyncClient) -> None:
        """Wait until no update runs and the server serves what the database says it should."""
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline:
            overview = await self._overview(admin)
            served = (await admin.get("/version")).json()["policy_version"]
            if overview["current_job"] is None and served == overview["serving_version"]:
                return
            await asyncio.sleep(LOOK_S / 4)
        self.tally.fail(f"settle: the server did not serve the promoted version within {SETTLE_S:.0f} s")

    async def _overview(self, admin: httpx.AsyncClient) -> dict[str, Any]:
        response = await admin.get("/v1/admin/overview")
        response.raise_for_status()
        found: dict[str, Any] = response.json()
        return found

    def _http(self, key: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.base_url, headers={"Authorization": f"Bearer {key}"}, timeout=30.0)

    @contextlib.contextmanager
    def _live(self) -> Iterator["_Show"]:
        if not self.console.is_terminal:
            yield _Show(self, None)
            return
        with Live(console=self.console, refresh_per_second=4) as live:
            yield _Show(self, live)

    def _summary(self, before: Mark, after: Mark, overview: dict[str, Any]) -> Summary:
        grades: dict[str, int] = overview["grades"]
        clients = grades.get("client", 0)
        return Summary(
            accuracy_before=before.accuracy,
            accuracy_before_interval=before.interval,
            accuracy_after=after.accuracy,
            accuracy_after_interval=after.interval,
            exam_prompts=before.total,
            updates=overview["verdicts"].get("promoted", 0),
            updates_refused=overview["verdicts"].get("refused", 0),
            swaps=overview["swaps"].get("served", 0),
            requests=self.tally.requests,
            answers=self.tally.answers,
            failed=self.tally.failed,
            grades=sum(grades.values()),
            grades_by_clients=clients,
            grades_by_server=sum(grades.values()) - clients,
            learned=overview["learned"],
            skipped=overview["skipped"],
            policy_version=overview["serving_version"],
            latent_length=self.plan.latent_length,
            seconds=time.monotonic() - self.began,
        )


@dataclass(slots=True)
class _Show:
    """One look on the screen: the panel on a terminal, a line every few seconds elsewhere."""

    circle: Circle
    live: Live | None
    said_at: float = float("-inf")

    def look(self, overview: dict[str, Any], seconds_left: float) -> None:
        circle = self.circle
        if self.live is not None:
            self.live.update(view.panel(overview, circle.readings, circle.tally, seconds_left))
            return
        reading = circle.readings[-1]
        if reading.seconds - self.said_at >= view.LINE_EVERY_S:
            self.said_at = reading.seconds
            circle.console.print(view.line(overview, reading, circle.tally), highlight=False, soft_wrap=True)


def _reading(overview: dict[str, Any], elapsed: float) -> Reading:
    version = overview["serving_version"]
    measured = [point["accuracy"] for point in overview["history"] if point["version"] == version]
    return Reading(elapsed, version, sum(overview["grades"].values()), measured[-1] if measured else None)
