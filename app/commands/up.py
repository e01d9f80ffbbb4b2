"""`lepo up`: the whole stack on this machine, until Ctrl-C."""

import signal
import sys
import time
from types import FrameType
from typing import NoReturn

import click

from app.models.packaged import PACKAGED


@click.command("up", short_help="Run the whole stack on this machine and print how to reach it.")
@click.option("--show-keys", is_flag=True, help="Print the first keys although this is no terminal, but a log.")
def command(show_keys: bool) -> None:
    """Run Postgres, Redis, the server, a worker and beat, migrated and ready; print the address, keys and a first curl.

    Postgres and Redis are embedded unless LEPO_DATABASE_URL and LEPO_REDIS_URL name others. Ctrl-C stops everything.
    Commands in the same directory (lepo policy, jobs, keys, top, ...) find it, and its key, by themselves.
    """
    import logging

    from app.held_out import require_held_out
    from app.models.source import model_source
    from app.settings import read_settings
    from app.stack.stack import Stack
    from app.stack.supervisor import AlreadyRunning, ChildFailed

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, stop)
    settings = read_settings()
    require_held_out(settings)
    if settings.model in PACKAGED:  # before the server's patience is counted
        model_source(settings.model, settings.var_dir, click.echo)
    click.echo(f"Starting; logs are in {settings.var_dir / 'logs'} ...")
    try:
        with Stack(settings.var_dir) as stack:
            shown = sys.stdout.isatty()
            click.echo(stack.welcome(show_keys=show_keys or shown, link=shown))
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        click.echo("Stopped.")
    except (AlreadyRunning, ChildFailed) as error:
        raise click.ClickException(str(error)) from error


def stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    """End like Ctrl-C does."""
    raise KeyboardInterrupt
