"""Set the scene for the circle: a fresh directory, problems in three splits that never meet, and the stack's settings.

The settings are those of a small model on a small machine; every one is an ordinary setting of the product.
"""

import asyncio
import logging
import shutil
import time
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from app.demo.circle import Circle, Plan
from app.demo.summary import Summary
from app.demo.view import say_errors
from app.stack.stack import Stack
from training.tasks.families import generate
from training.tasks.jsonl import write_problems
from training.tasks.splits import Split

FAMILY: Final = "chained_arithmetic"
TRAIN_PROBLEMS: Final = 4000
GATE_PROBLEMS: Final = 200
CHOICES: Final = 8
THINK_S: Final = 0.3
LATENT_LENGTH: Final = 4
MARKER: Final = ".lepo-demo"  # stands in a directory that the demo made and may remove
SETTINGS: Final = {
    "LEPO_PORT": "0",
    "LEPO_THREADS": "1",
    "LEPO_MODEL": "demo",
    "LEPO_LATENT_LENGTH": str(LATENT_LENGTH),
    "LEPO_LATENT_TAU": "0.5",
    "LEPO_MAX_LENGTH": "128",
    "LEPO_MAX_COMPLETION_TOKENS": "40",
    "LEPO_SLOTS": "32",
    "LEPO_LEARN_INTERVAL": "0.5",
    "LEPO_GRADE_INTERVAL": "0.5",
    "LEPO_MIN_GRADES": "128",
    "LEPO_MAX_GRADES": "256",
    "LEPO_LEARNING_RATE": "3e-4",
    "LEPO_WEIGHT_DECAY": "0",
    "LEPO_HELDOUT_SIZE": str(GATE_PROBLEMS),
}


def run_demo(directory: Path, *, learn_s: float, users: int, exam: int) -> int:
    """Run the circle in `directory`; 0 when it shows what it claims, else 1."""
    began = time.monotonic()
    console = Console()
    logging.basicConfig(level=logging.WARNING)
    make_afresh(directory)
    heldout = directory / "heldout.jsonl"
    write_problems(heldout, generate(FAMILY, Split.VALIDATION, GATE_PROBLEMS, seed=0))
    console.print("Starting Postgres, Redis, the server, a worker and beat ...")
    stack = Stack(directory / "stack", {**SETTINGS, "LEPO_HELDOUT": str(heldout.resolve())})
    with stack:
        console.print(
            f"  up after {time.monotonic() - began:.0f} s: {stack.base_url}, processes {', '.join(stack.pids)}"
        )
        circle = Circle(
            plan=Plan(directory, learn_s, users, CHOICES, THINK_S, LATENT_LENGTH),
            base_url=stack.base_url,
            user_key=stack.create_key("demo-users", ("infer", "grade")),
            admin_key=stack.create_key("demo-view", ("admin",)),
            learn_from=generate(FAMILY, Split.TRAIN, TRAIN_PROBLEMS, seed=0),
            examine_on=generate(FAMILY, Split.TEST, exam, seed=0),
            console=console,
            began=began,
        )
        summary = asyncio.run(circle.run())
    return conclude(console, circle, summary, directory)


def conclude(console: Console, circle: Circle, summary: Summary, directory: Path) -> int:
    """Print the table and say whether the claims hold."""
    console.print()
    console.print(summary.table())
    console.print(f"Plot: {directory / 'learning_curve.png'}   Figures: {directory / 'summary.json'}", highlight=False)
    say_errors(console, circle.tally)
    for shortfall in summary.shortfalls:
        console.print(f"Not shown: {shortfall}.", style="bold red", markup=False)
    return 1 if summary.shortfalls else 0


def make_afresh(directory: Path) -> None:
    """Empty a directory of an earlier demo, or make a new one.

    Raises:
        click.UsageError: something else is in it.

    """
    if directory.exists() and any(directory.iterdir()):
        if not (directory / MARKER).exists():
            raise click.UsageError(f"{directory} holds something else than an earlier demo; choose another --directory")
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MARKER).touch()
