"""`lepo top`: a live screen of the running service, over HTTP: is it improving, and why not, what is it doing now.

On a terminal a panel that redraws until Ctrl-C; elsewhere, or with `--once`, it is printed once. Leaves out steering
it (`lepo policy`, `lepo jobs`).
"""

import time
from typing import TYPE_CHECKING

import click

from app.commands.connection import asks
from app.commands.output import AS_JSON, say_json

if TYPE_CHECKING:
    from app.client import Lepo
    from app.commands.screen import Look


@click.command("top", short_help="Watch the running service: does it get better, and what is it doing?")
@click.option("--once", is_flag=True, help="Print it once and end.")
@click.option("--every", default=2.0, show_default=True, type=click.FloatRange(min=0.2), help="Seconds between looks.")
@AS_JSON
@asks
def command(lepo: "Lepo", once: bool, every: float, as_json: bool) -> None:
    """Show what serves, whether it gets better, why nothing is learned, if so, and how busy the server is.

    Needs an admin key of the service. With --json one object, printed once.
    """
    from rich.console import Console
    from rich.live import Live

    from app.commands.screen import facts, panel

    console = Console()
    now = look(lepo)
    if as_json:
        say_json(facts(now))
        return
    if once or not console.is_terminal:
        console.print(panel(now, None))
        return
    try:
        with Live(panel(now, None), console=console, refresh_per_second=4, screen=True) as screen:
            while True:
                time.sleep(every)
                before, now = now, look(lepo)
                screen.update(panel(now, before))
    except KeyboardInterrupt:
        console.print(panel(now, None))


def look(lepo: "Lepo") -> "Look":
    """Ask the service for everything that is shown."""
    from app.client import operator
    from app.commands.screen import Look, numbers

    overview, learning = lepo.overview(), lepo.send(operator.learning())
    trials, jobs = lepo.send(operator.trials()), lepo.jobs(limit=5)
    return Look(time.monotonic(), overview, learning, trials, jobs, numbers(lepo.metrics()))
