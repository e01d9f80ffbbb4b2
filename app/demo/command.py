"""`lepo demo`: the door to the circle."""

from pathlib import Path

import click


@click.command("demo", short_help="Run the whole circle and show the policy getting better.")
@click.option("--seconds", default=150.0, show_default=True, type=click.FloatRange(min=5), help="Time to learn in.")
@click.option("--users", default=4, show_default=True, type=click.IntRange(1, 64), help="Simulated users at once.")
@click.option("--exam", default=300, show_default=True, type=click.IntRange(20, 2000), help="Held-out exam problems.")
@click.option(
    "--directory",
    default=Path("var/demo"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the stack keeps its data, and the plot and summary go. Made afresh.",
)
def command(seconds: float, users: int, exam: int, directory: Path) -> None:
    """Run the whole circle on this machine: serve, grade, learn, swap.

    Starts Postgres, Redis, the server, a worker and beat as separate processes, asks the demo model questions over
    HTTP, grades the answers, and lets the service learn from them. Exits 0 when accuracy rose by 20 points or more
    with at least 3 swaps and no failed request.
    """
    from app.demo.staging import run_demo

    raise SystemExit(run_demo(directory, learn_s=seconds, users=users, exam=exam))
