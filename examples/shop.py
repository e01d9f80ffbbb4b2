"""A small shop for an agent to work in: what its two tools do, and tasks that need one of them. `agent.py` uses it.

Every task is new: what is asked before and after learning, what is learned from, and what the pupil was shown at first
are parts of all tasks that never meet. No model can know a price: it is looked up or guessed.
"""

import hashlib
import random
import re
from dataclasses import dataclass
from typing import Final, Literal

Part = Literal["shown", "learned", "asked"]

ITEMS: Final = (
    *("lamp", "chair", "table", "spoon", "knife", "plate", "cup", "bowl", "candle", "mirror", "clock", "basket"),
    *("blanket", "pillow", "carpet", "broom", "bucket", "ladder", "hammer", "rope", "tent", "boat", "kite", "drum"),
)
SHARES: Final[tuple[Part, ...]] = ("shown",) * 5 + ("learned",) * 3 + ("asked",) * 2  # of all tasks, in tenths


@dataclass(frozen=True)
class Task:
    """One task. Example: `Task("What is 47 - 19?", "28", "calculator", {"expression": "47 - 19"})`."""

    question: str
    answer: str  # a number from 0 to 99
    tool: Literal["calculator", "price"]  # that helps
    arguments: dict[str, str | int]  # that it needs

    @property
    def part(self) -> Part:
        """The part of all tasks that it belongs to; it follows from the question."""
        return SHARES[int(hashlib.sha256(self.question.encode()).hexdigest(), 16) % len(SHARES)]


def work_out(expression: str) -> str:
    """Work out a sum of two numbers; what is none is told so, because a model reads it."""
    found = re.fullmatch(r"(\d{1,4}) ([-+]) (\d{1,4})", expression)
    if found is None:
        return "no sum"
    left, sign, right = int(found[1]), found[2], int(found[3])
    return str(left + right if sign == "+" else left - right)


def look_up(item: str, shop: int) -> str:
    """Look up what an item costs in a shop, in coins."""
    if item not in ITEMS:
        return "no item"
    return str(int(hashlib.sha256(f"{item}/{shop}".encode()).hexdigest(), 16) % 90 + 10)


def draw_task(rng: random.Random, part: Part) -> Task:
    """Draw a task of one part."""
    while True:
        task = a_price(rng) if rng.random() < 0.5 else a_sum(rng)
        if task.part == part:
            return task


def tasks(part: Part, count: int, seed: int = 0) -> list[Task]:
    """Draw different tasks of one part, the same at every call."""
    rng = random.Random(seed)  # noqa: S311  tasks are no secret
    found: dict[str, Task] = {}
    while len(found) < count:
        task = draw_task(rng, part)
        found[task.question] = task
    return list(found.values())


def a_sum(rng: random.Random) -> Task:
    """Ask for a sum or a difference of two numbers of two digits; it has two at most."""
    left, right = sorted((rng.randrange(10, 100), rng.randrange(10, 100)), reverse=True)
    sign = "-" if left + right > 99 else rng.choice("+-")
    expression = f"{left} {sign} {right}"
    return Task(f"What is {expression}?", work_out(expression), "calculator", {"expression": expression})


def a_price(rng: random.Random) -> Task:
    """Ask for the price of an item in a shop."""
    item, shop = rng.choice(ITEMS), rng.randrange(10, 100)
    return Task(f"What does a {item} cost in shop {shop}?", look_up(item, shop), "price", {"item": item, "shop": shop})
