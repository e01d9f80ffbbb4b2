"""An agent with two tools that gets better while it is served: openai-agents, unmodified, on this service.

Every task is an episode: the agent calls a tool, reads what it gave back, and answers. The turns of an episode carry
its name, and in the end all of it is graded, right or wrong. The service does the rest: its worker makes updates of the
policy from the grades, and the server takes them between two steps. Unseen tasks are asked before and after.

    python examples/agent.py                                       # starts a service; exits 0 if the agent got better
    python examples/agent.py --url http://127.0.0.1:8000 --key KEY # teaches the one that runs there

Copy `make_agent`, `play` and `work`; the rest is an exam and a service to try it on. docs/agents.md goes through it.
Leaves out the gate: a service that people rely on has held-out prompts (LEPO_HELDOUT) or a canary (LEPO_CANARY_SHARE).
"""

import argparse
import asyncio
import random
import re
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, RunConfig, Runner, function_tool
from agents.exceptions import AgentsException
from openai import AsyncOpenAI
from pydantic import Field
from shop import Task, draw_task, look_up, tasks, work_out

from app.client import AsyncLepo
from app.stack.stack import Stack
from training.statistics.intervals import wilson

# The agent


@function_tool
def calculator(expression: Annotated[str, Field(pattern=r"^[0-9]{1,2} [-+] [0-9]{1,2}$")]) -> str:
    """Work out a sum or a difference."""
    return work_out(expression)


@function_tool
def price(item: Annotated[str, Field(pattern="^[a-z]{1,12}$")], shop: Annotated[int, Field(ge=0, le=99)]) -> str:
    """Look up what an item costs in a shop."""
    return look_up(item, shop)


def make_agent(client: AsyncOpenAI) -> Agent[None]:
    """Make the agent. Its first answer has to be a call, which a grammar writes with it; after that it is free."""
    return Agent(
        "shopkeeper",
        model=OpenAIChatCompletionsModel("lepo", client),
        tools=[calculator, price],
        model_settings=ModelSettings(tool_choice="required", parallel_tool_calls=False),
    )


async def play(agent: Agent[None], task: Task, episode: str, seed: int | None = None) -> bool:
    """Let the agent work on a task; says whether it was right.

    Args:
        agent: that works.
        task: what it is asked.
        episode: name of the session that its turns are joined to.
        seed: of all its turns; None: a fresh one for each.

    """
    seeded = {} if seed is None else {"seed": seed}
    named = ModelSettings(extra_headers={"X-Session-Id": episode}, extra_body=seeded)
    config = RunConfig(model_settings=named, tracing_disabled=True)
    try:
        result = await Runner.run(agent, task.question, max_turns=3, run_config=config)
    except AgentsException:  # too many turns, or a call of no tool: the agent's fault, so a grade like any other
        return False
    return re.findall(r"\d+", str(result.final_output))[-1:] == [task.answer]


# The work: episodes, each graded as a whole


@dataclass
class Work:
    """What was done so far."""

    agent: Agent[None]
    lepo: AsyncLepo
    right: list[bool] = field(default_factory=list)  # in the order of grading


async def work(done: Work, name: int, tries: int, stop: asyncio.Event) -> None:
    """Do task after task until `stop`; each `tries` times at once, so that there are episodes to compare."""
    rng = random.Random(f"worker {name}")  # noqa: S311  tasks are no secret
    while not stop.is_set():
        task = draw_task(rng, "learned")
        await asyncio.gather(*(graded_episode(done, task) for _ in range(tries)))


async def graded_episode(done: Work, task: Task) -> None:
    """Play one episode and grade it: every turn shares what came of it, the early ones a little less."""
    episode = f"shop {uuid.uuid4().hex}"
    right = await play(done.agent, task, episode)
    await done.lepo.grade_session(episode, right, credit="discounted", discount=0.9, grader="shop")
    done.right.append(right)


# The exam


@dataclass(frozen=True)
class Mark:
    """How many tasks were done right."""

    right: int
    total: int

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the share (Wilson)."""
        return wilson(self.right, self.total)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.right} of {self.total} right: {self.right / self.total:.1%} (95% {low:.1%} to {high:.1%})"


async def examine(agent: Agent[None], questions: list[Task], at_once: int = 16) -> Mark:
    """Ask tasks that nothing is learned from: they are not graded."""
    turnstile = asyncio.Semaphore(at_once)

    async def one(seed: int, task: Task) -> bool:
        async with turnstile:
            return await play(agent, task, f"exam {uuid.uuid4().hex}", seed)

    marks = await asyncio.gather(*(one(seed, task) for seed, task in enumerate(questions)))
    return Mark(sum(marks), len(marks))


# The whole


@dataclass(frozen=True)
class Plan:
    """How long and how hard the agent is taught."""

    learn_s: float = 240.0  # seconds of work between the exams
    exam: int = 200  # unseen tasks
    workers: int = 4  # tasks that are worked on at once
    tries: int = 8  # episodes of each
    updates: int = 0  # promoted updates that end the work early; 0: none do


SETTINGS: Final = MappingProxyType(
    {
        "LEPO_PORT": "0",
        "LEPO_THREADS": "1",  # of two cores, one serves and one learns
        "LEPO_LATENT_LENGTH": "0",  # a grammar writes the beginning of a call, so there is nothing to think there
        "LEPO_MAX_LENGTH": "256",
        "LEPO_MAX_COMPLETION_TOKENS": "80",
        "LEPO_SLOTS": "32",
        "LEPO_LEARN_INTERVAL": "0.5",
        "LEPO_MIN_GRADES": "128",  # turns: four tasks, eight episodes of each, two turns long
        "LEPO_MAX_GRADES": "256",
        "LEPO_LEARNING_RATE": "3e-4",
        "LEPO_WEIGHT_DECAY": "0",
        "LEPO_GATE_NO_SIGNAL": "promote",  # the exam judges here
        "LEPO_DATABASE_TIMEOUT": "30",
    }
)

SHORT_SETTINGS: Final = MappingProxyType({"LEPO_MIN_GRADES": "32", "LEPO_MAX_GRADES": "64"})
PUPIL: Final = Path(__file__).with_name("pupil_weights")  # see pupil.py


async def improve(url: str, key: str, plan: Plan, say: Callable[[str], None]) -> tuple[Mark, Mark, int]:
    """Examine the agent, let it work and be graded, and examine it again; gives the version that was served too."""
    questions = tasks("asked", plan.exam)
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key=key) as client, AsyncLepo(url, key, timeout_s=120) as lepo:
        done = Work(make_agent(client), lepo)
        before = await examine(done.agent, questions)
        say(f"Before: {before}")
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for name in range(plan.workers):
                group.create_task(work(done, name, plan.tries, stop))
            version = await watch(done, plan, say)
            stop.set()
        after = await examine(done.agent, questions)
        say(f"After:  {after}")
    return before, after, version


async def watch(done: Work, plan: Plan, say: Callable[[str], None], line_s: float = 10.0) -> int:
    """Say how it goes until the time is up, or there were updates enough; gives the version that is served."""
    began = said = time.monotonic()
    version, over = 0, False
    while not over:
        await asyncio.sleep(1.0)
        version = int((await done.lepo.version())["policy_version"])
        now = time.monotonic()
        over = now >= began + plan.learn_s or 0 < plan.updates <= version
        if over or now >= said + line_s:
            said = now
            last = done.right[-100:] or [False]
            shares = f"{sum(last) / len(last):.0%} of the last {len(last)} right"
            say(f"{now - began:5.0f} s  version {version}  {len(done.right)} episodes  {shares}")
    return version


def main() -> int:
    """Run it; 0 if the intervals before and after do not touch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a service that runs; without it one is started")
    parser.add_argument("--key", help="with --url: of the scopes infer and grade")
    parser.add_argument("--model", default=str(PUPIL), help="of the service that is started, as LEPO_MODEL")
    parser.add_argument("--seconds", type=float, default=Plan.learn_s, help="of work between the exams")
    parser.add_argument("--exam", type=int, default=Plan.exam, help="unseen tasks asked before and after")
    parser.add_argument("--short", action="store_true", help="until one update serves; 0 if one does, no other claim")
    asked = parser.parse_args()
    if asked.url is not None and asked.key is None:
        parser.error("--url needs --key")
    plan = Plan(asked.seconds, asked.exam, updates=1 if asked.short else 0)
    with ExitStack() as running:
        url, key = (asked.url, asked.key) if asked.url else started(running, asked.model, short=asked.short)
        before, after, version = asyncio.run(improve(url, key, plan, say))
    better = after.interval[0] > before.interval[1]
    say("It got better." if better else "That it got better was not shown.")
    return 0 if better or 0 < plan.updates <= version else 1


def started(running: ExitStack, model: str, *, short: bool) -> tuple[str, str]:
    """Start a service of its own, with a model to teach; gives its address and a key."""
    settings = {**SETTINGS, **(SHORT_SETTINGS if short else {}), "LEPO_MODEL": model}
    place = running.enter_context(tempfile.TemporaryDirectory(prefix="lepo-agent-"))
    say("Starting Postgres, Redis, the server, a worker and beat ...")
    stack = running.enter_context(Stack(Path(place), settings, ready_seconds=600.0))
    return stack.base_url, stack.create_key("agent", ("infer", "grade"))


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
