"""Simulated users with one grade per answer: late, missing, wrong or hostile, as the condition says.

Every user has an API key of its own and asks one question for one answer at a time. Leaves out how the answers are
judged (`training.graders`) and what the service makes of it.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx

from app.demo.scenes import TOY
from benchmarks.online.conditions import Manners
from benchmarks.online.later import Later
from training.demo_model.teacher import Slips, work_out
from training.graders.parse import parse_grader
from training.graders.verdict import Graded
from training.tasks.chained_arithmetic import parse_chain
from training.tasks.problem import Problem

GRADER_DEADLINE_S = 5.0
THINK_S = 0.25  # mean pause between two questions of a user
TELL_S = 15.0  # between two words about grades to come
LOOK_S = 0.1


@dataclass(slots=True)
class Counts:
    """What the crowd did; one event loop writes them."""

    answers: int = 0  # received whole
    right: int = 0  # of these, by the true grader
    grades: int = 0  # posted and acknowledged, or left to the server
    flipped: int = 0  # of these, said the opposite, by mistake or in a time of poison
    praise: int = 0  # of these, 1
    corrections: int = 0  # posted and acknowledged
    hostile: int = 0  # of these, by hostile keys
    unsaid: int = 0  # answers that their user never grades
    never: int = 0  # grades that would have come after the end
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
    """All users of a condition, who ask while the doors are open.

    Args:
        users: all of them.
        problems: what they draw their questions from.
        manners: how they grade.
        seed: of questions, draws and opinions.
        delay_s: mean of the random delay of a grade, on a clock that goes while the doors are open.

    """

    def __init__(
        self, users: Sequence[User], problems: Sequence[Problem], manners: Manners, seed: int, delay_s: float = 0.0
    ) -> None:
        self.counts = Counts()
        self.doors = asyncio.Event()  # closed: nobody begins another question
        self.inverted = False  # True: every grade says the opposite
        self._users = users
        self._problems = problems
        self._manners = manners
        self._seed = seed
        self._delay_s = delay_s
        self._asked_out = False  # all has been asked: the clock goes on with the doors closed
        self._later = Later(lambda: self.doors.is_set() or self._asked_out)
        self._grading: set[asyncio.Task[None]] = set()
        self._awaited: list[tuple[int, asyncio.Event]] = []  # so many grades, and who is to hear of it

    async def graded(self, grades: int) -> None:
        """Wait until so many grades are posted."""
        reached = asyncio.Event()
        self._awaited.append((grades, reached))
        await reached.wait()

    async def live(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._later.run())
            for user in self._users:
                group.create_task(self._be(user))

    async def last_grades(self, tell: Callable[[str], None], limit_s: float) -> None:
        """Wait for late grades, at most so long, and say now and then how many are to come; the others never do."""
        self._asked_out = True
        began = told = time.monotonic()
        while self._later and time.monotonic() - began < limit_s:
            if time.monotonic() - told >= TELL_S:
                told = time.monotonic()
                tell(f"{len(self._later)} late grades are still to come, {limit_s - (told - began):.0f} s at most")
            await asyncio.sleep(LOOK_S)
        self.counts.never += self._later.drop()
        await asyncio.gather(*self._grading)

    async def _be(self, user: User) -> None:
        rng = random.Random(f"{self._seed}/{user.name}")  # noqa: S311  a simulation
        session = self._session(rng)
        while True:
            await self.doors.wait()
            await self._ask_and_grade(user, rng.choice(self._problems), rng, session)
            if session is not None and rng.random() * self._manners.session_questions < 1:
                session = self._session(rng)
            await asyncio.sleep(THINK_S / user.pace * rng.uniform(0.5, 1.5))

    def _session(self, rng: random.Random) -> str | None:
        """Name a new session; None where users name none."""
        return f"{rng.getrandbits(64):016x}" if self._manners.session_questions else None

    async def _ask_and_grade(self, user: User, problem: Problem, rng: random.Random, session: str | None) -> None:
        body: dict[str, object] = {
            "model": "lepo",
            "messages": [{"role": "user", "content": problem.prompt}],
            "seed": rng.randrange(2**31),
            "metadata": {"task": problem.family} | ({} if session is None else {"session": session}),
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
        if self.inverted:
            value, flipped = 1.0 - value, True

        def grade() -> None:
            task = asyncio.create_task(self._grade(user, choice["interaction_id"], value, flipped=flipped))
            self._grading.add(task)
            task.add_done_callback(self._grading.discard)

        if self._delay_s:
            self._later.add(rng.expovariate(1 / self._delay_s), grade)
        else:
            grade()

    async def _correct(self, user: User, interaction_id: str, problem: Problem) -> None:
        """Write out the right answer, and give no number."""
        body: dict[str, object] = {"correction": worked(problem)}
        if await self._post(user, f"/v1/interactions/{interaction_id}/grades", body) is not None:
            self.counts.corrections += 1

    async def _grade(self, user: User, interaction_id: str, value: float, *, flipped: bool) -> None:
        posted = await self._post(user, f"/v1/interactions/{interaction_id}/grades", {"value": value})
        if posted is not None:
            self.counts.grades += 1
            self.counts.flipped += flipped
            self.counts.praise += value == 1.0
            self.counts.hostile += user.hostile
            for grades, reached in self._awaited:
                if self.counts.grades >= grades:
                    reached.set()

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
    """Work a chained sum out without a slip, as the demo model shows it: what comes after its latent steps.

    The first partial results are thought and not written, so who corrects what stands there does not write them either.
    """
    chain = parse_chain(problem.prompt)
    words = work_out(random.Random(0), chain, Slips(0.0, 0.0, 0.0)).split()  # noqa: S311  it never slips
    return " ".join(words[TOY.latent_length :] or words[-1:])


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
