"""Simulated users with one grade per answer: late, missing, wrong or hostile, as the condition says.

Every user has an API key of its own and asks one question for one answer at a time. Leaves out how the answers are
judged (`training.graders`) and what the service makes of it.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx

from benchmarks.online.conditions import Manners
from training.demo_model.teacher import Slips, work_out
from training.graders.parse import parse_grader
from training.graders.verdict import Graded
from training.tasks.chained_arithmetic import parse_chain
from training.tasks.problem import Problem

GRADER_DEADLINE_S = 5.0
FIRST_INTERVAL_S = 5.0  # between two updates, before it is known
THINK_S = 0.25  # mean pause between two questions of a user
TELL_S = 15.0  # between two words about grades to come


@dataclass(slots=True)
class Counts:
    """What the crowd did; one event loop writes them."""

    answers: int = 0  # received whole
    right: int = 0  # of these, by the true grader
    grades: int = 0  # posted and acknowledged, or left to the server
    flipped: int = 0  # of these, said the opposite
    praise: int = 0  # of these, 1
    corrections: int = 0  # posted and acknowledged
    hostile: int = 0  # of these, by hostile keys
    unsaid: int = 0  # answers that their user never grades
    failed: int = 0  # HTTP calls that did not end well
    errors: list[str] = field(default_factory=list)  # the first few, in words

    def fail(self, what: str) -> None:
        """Count a failure; the first ones are kept in words."""
        self.failed += 1
        if len(self.errors) < 5:
            self.errors.append(what[:200])


@dataclass(frozen=True, slots=True)
class User:
    """One user."""

    name: int  # from 0
    http: httpx.AsyncClient  # with the user's own key
    hostile: bool
    pace: float  # how many times as quickly as others it asks


class Crowd:
    """All users of a condition, who ask while the doors are open."""

    def __init__(self, users: Sequence[User], problems: Sequence[Problem], manners: Manners, seed: int) -> None:
        self.counts = Counts()
        self.doors = asyncio.Event()  # closed: nobody begins another question
        self.update_interval_s = FIRST_INTERVAL_S  # of the service, as whoever watches it sees it
        self._users = users
        self._problems = problems
        self._manners = manners
        self._seed = seed
        self._grading: set[asyncio.Task[None]] = set()

    async def live(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            for user in self._users:
                group.create_task(self._be(user))

    async def last_grades(self, tell: Callable[[str], None]) -> None:
        """Wait for the grades that are still being thought about, and say now and then how many they are."""
        while self._grading:
            tell(f"{len(self._grading)} late grades are still to come")
            posted, _ = await asyncio.wait(self._grading, timeout=TELL_S)
            for grading in posted:
                grading.result()

    async def _be(self, user: User) -> None:
        rng = random.Random(f"{self._seed}/{user.name}")  # noqa: S311  a simulation
        while True:
            await self.doors.wait()
            await self._ask_and_grade(user, rng.choice(self._problems), rng)
            await asyncio.sleep(THINK_S / user.pace * rng.uniform(0.5, 1.5))

    async def _ask_and_grade(self, user: User, problem: Problem, rng: random.Random) -> None:
        body: dict[str, object] = {
            "model": "lepo",
            "messages": [{"role": "user", "content": problem.prompt}],
            "seed": rng.randrange(2**31),
            "metadata": {"task": problem.family},
        }
        if self._manners.graders:
            body["grader"] = dict(problem.grader)
        answered = await self._post(user, "/v1/chat/completions", body)
        if answered is None:
            return
        choice = answered.json()["choices"][0]
        right = is_right(problem, choice["message"]["content"] or "")
        self.counts.answers += 1
        self.counts.right += right
        if self._manners.graders:
            self.counts.grades += 1  # the server's own, once per answer
            return
        if self._manners.corrected is not None:
            self.counts.grades += 1  # looked at; what is right needs no word
            if not right and rng.random() < self._manners.corrected:
                await self._correct(user, choice["interaction_id"], problem)
            return
        value, flipped = opinion(right, hostile=user.hostile, manners=self._manners, rng=rng)
        if value is None:
            self.counts.unsaid += 1
            return
        mean = self._manners.delay_s + self._manners.delay_updates * self.update_interval_s
        delay = rng.expovariate(1 / mean) if mean else 0.0
        late = asyncio.create_task(self._grade(user, choice["interaction_id"], value, delay, flipped=flipped))
        self._grading.add(late)
        late.add_done_callback(self._grading.discard)

    async def _correct(self, user: User, interaction_id: str, problem: Problem) -> None:
        """Write out the right answer, and give no number."""
        body: dict[str, object] = {"correction": worked(problem)}
        if await self._post(user, f"/v1/interactions/{interaction_id}/grades", body) is not None:
            self.counts.corrections += 1

    async def _grade(self, user: User, interaction_id: str, value: float, delay_s: float, *, flipped: bool) -> None:
        await asyncio.sleep(delay_s)
        posted = await self._post(user, f"/v1/interactions/{interaction_id}/grades", {"value": value})
        if posted is not None:
            self.counts.grades += 1
            self.counts.flipped += flipped
            self.counts.praise += value == 1.0
            self.counts.hostile += user.hostile

    async def _post(self, user: User, path: str, body: dict[str, object]) -> httpx.Response | None:
        """Post once; a failure is counted and gives None."""
        try:
            response = await user.http.post(path, json=body)
        except httpx.HTTPError as error:
            self.counts.fail(f"{path}: {error!r}")
            return None
        if response.is_success:
            return response
        self.counts.fail(f"{path}: HTTP {response.status_code} {response.text}")
        return None


def is_right(problem: Problem, text: str) -> bool:
    """Judge an answer truly."""
    verdict = parse_grader(dict(problem.grader)).grade(text, GRADER_DEADLINE_S)
    return isinstance(verdict, Graded) and verdict.value == 1.0


def worked(problem: Problem) -> str:
    """Work a chained sum out without a slip, as the demo model writes it: partial results, then the answer."""
    chain = parse_chain(problem.prompt)
    return work_out(random.Random(0), chain, Slips(0.0, 0.0, 0.0))  # noqa: S311  it never slips, so nothing is drawn


def opinion(right: bool, *, hostile: bool, manners: Manners, rng: random.Random) -> tuple[float | None, bool]:
    """Form the grade a user gives.

    Args:
        right: whether the answer is.
        hostile: whether this user praises what is wrong; such a user never stays silent.
        manners: of the others.
        rng: draws silence and mistakes.

    Returns:
        the grade, None for none at all; and whether it is the opposite of the truth by mistake.

    """
    if hostile:
        return float(not right), False
    if rng.random() < manners.ungraded or (not right and rng.random() >= manners.blamed):
        return None, False
    flipped = rng.random() < manners.flipped
    return float(right != flipped), flipped
