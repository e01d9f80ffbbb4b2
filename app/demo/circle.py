"""The demo read aloud: start, sit the exam, let users ask and grade while the service learns, sit it again."""

import asyncio
import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from openai import AsyncOpenAI
from rich.console import Console
from rich.live import Live

from app.client import AsyncLepo, Retries
from app.demo import view
from app.demo.asking import stock_client
from app.demo.exam import Mark, sit_exam
from app.demo.plot import Reading, plot_learning_curve
from app.demo.progress import counting, waiting
from app.demo.scene import Scene
from app.demo.summary import Summary
from app.demo.tally import Tally
from app.demo.users import be_a_user
from training.tasks.problem import Problem

LOOK_S: Final = 1.0
NOT_AGAIN: Final = Retries(times=0)  # the demo claims that nothing fails, so it hides nothing
PATIENT: Final = Retries(times=60, first_s=LOOK_S, longest_s=4.0)  # an operator looks again where both cores are busy


@dataclass(slots=True)
class Circle:
    """One run against a stack that is up at `base_url`."""

    scene: Scene
    base_url: str
    user_key: str  # scopes infer and grade
    admin_key: str  # reads the overview, and freezes learning for the last exam
    learn_from: Sequence[Problem]
    examine_on: Sequence[Problem]
    console: Console
    began: float  # monotonic seconds at which the first process was started
    tally: Tally = field(default_factory=Tally)
    readings: list[Reading] = field(default_factory=list)

    async def run(self) -> Summary:
        """Run the whole circle and write its plot and summary."""
        scene = self.scene
        client = stock_client(self.base_url, self.user_key, scene.request_s)
        async with client, self._lepo(self.user_key) as user, self._lepo(self.admin_key, PATIENT) as admin:
            self.console.print(f"Exam before learning: {len(self.examine_on)} held-out problems over HTTP ...")
            before = await self._examine(client)
            await self._serve_and_learn(client, user, admin)
            await self._settle(admin)
            self.console.print("Exam after learning: the same problems and seeds ...")
            after = await self._examine(client)
            summary = self._summary(before, after, await admin.overview())
        plot_learning_curve(scene.directory / "learning_curve.png", scene.caption, self.readings, before, after)
        summary.write(scene.directory / "summary.json")
        return summary

    async def _examine(self, client: AsyncOpenAI) -> Mark:
        """Sit the exam and say how it went."""
        with counting(self.console, len(self.examine_on)) as answered:
            mark = await sit_exam(client, self.examine_on, self.tally, answered)
        self.console.print(f"  {mark.correct} of {mark.total} right ({mark.accuracy:.1%})")
        return mark

    async def _serve_and_learn(self, client: AsyncOpenAI, user: AsyncLepo, admin: AsyncLepo) -> None:
        """Let the users loose until the time is up, watching all the while."""
        stop = asyncio.Event()
        scene = self.scene
        async with asyncio.TaskGroup() as group:
            for name in range(scene.users):
                group.create_task(
                    be_a_user(
                        name,
                        client,
                        user,
                        self.learn_from,
                        self.tally,
                        stop,
                        choices=scene.choices,
                        think_s=scene.think_s,
                    )
                )
            await self._watch(admin)
            stop.set()

    async def _watch(self, admin: AsyncLepo) -> None:
        start, learn_s = time.monotonic(), self.scene.learn_s
        with self._live() as show:
            while (elapsed := time.monotonic() - start) < learn_s:
                overview = await admin.overview()
                self.readings.append(_reading(overview, elapsed))
                show.look(overview, learn_s - elapsed)
                await asyncio.sleep(LOOK_S)

    async def _settle(self, admin: AsyncLepo) -> None:
        """Let the update under way end, begin no other, and wait until what came of it serves: it sits the exam."""
        deadline = time.monotonic() + self.scene.settle_s
        with waiting(self.console, "the update under way ends, and what came of it is served"):
            under_way = (await admin.overview())["current_job"]
            while time.monotonic() < deadline:
                overview = await admin.overview()
                job = overview["current_job"]
                if overview["frozen"] is None and (job is None or under_way is None or job["id"] != under_way["id"]):
                    await admin.freeze(reason="the last exam")
                    continue
                served = (await admin.version())["policy_version"]
                if job is None and served == overview["serving_version"]:
                    return
                await asyncio.sleep(LOOK_S / 4)
        self.tally.fail(f"settle: the server did not serve the promoted version within {self.scene.settle_s:.0f} s")

    def _lepo(self, key: str, retries: Retries = NOT_AGAIN) -> AsyncLepo:
        return AsyncLepo(self.base_url, key, timeout_s=self.scene.request_s, retries=retries)

    @contextlib.contextmanager
    def _live(self) -> Iterator["_Show"]:
        if not self.console.is_terminal:
            yield _Show(self, None)
            return
        with Live(console=self.console, refresh_per_second=4) as live:
            yield _Show(self, live)

    def _summary(self, before: Mark, after: Mark, overview: Mapping[str, Any]) -> Summary:
        grades: dict[str, int] = overview["grades"]
        clients = grades.get("client", 0)
        return Summary(
            model=self.scene.model,
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
            latent_length=self.scene.latent_length,
            latent_placement=self.scene.placement,
            seconds=time.monotonic() - self.began,
        )


@dataclass(slots=True)
class _Show:
    """One look on the screen: the panel on a terminal, a line every few seconds elsewhere."""

    circle: Circle
    live: Live | None
    said_at: float = -math.inf

    def look(self, overview: Mapping[str, Any], seconds_left: float) -> None:
        circle = self.circle
        if self.live is not None:
            self.live.update(view.panel(circle.scene.command, overview, circle.readings, circle.tally, seconds_left))
            return
        reading = circle.readings[-1]
        if reading.seconds - self.said_at >= circle.scene.line_every_s:
            self.said_at = reading.seconds
            circle.console.print(view.line(overview, reading, circle.tally), highlight=False, soft_wrap=True)


def _reading(overview: Mapping[str, Any], elapsed: float) -> Reading:
    version = overview["serving_version"]
    measured = [point["accuracy"] for point in overview["history"] if point["version"] == version]
    return Reading(elapsed, version, sum(overview["grades"].values()), measured[-1] if measured else None)
