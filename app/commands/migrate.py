"""`lepo migrate`: bring the database to this release's schema."""

from collections.abc import Iterator
from contextlib import contextmanager

import click


@click.command("migrate", short_help="Bring the database to this release's schema.")
@click.option("--to", default="head", show_default=True, help="Revision to migrate to.")
@click.option("--down", is_flag=True, help="Undo steps down to --to ('base': all of them). Drops data.")
def command(to: str, *, down: bool) -> None:
    """Run every migration that is missing. Two that start together take turns."""
    from app.settings import read_settings
    from app.stack.addresses import database_address
    from app.store.migrate import downgrade, upgrade

    url = database_address(read_settings())
    with told():
        if down:
            downgrade(url, to)
            click.echo(f"The database is back at {to}.")
        else:
            click.echo(f"The database is at revision {upgrade(url, to)}.")


@contextmanager
def told() -> Iterator[None]:
    """Tell in one line why the database could not be migrated; every step of a run is in one transaction."""
    from alembic.util import CommandError
    from sqlalchemy.exc import DBAPIError

    from app.store.connect import first_line

    try:
        yield
    except DBAPIError as error:
        raise click.ClickException(f"The database was not migrated and is as it was: {first_line(error)}") from error
    except CommandError as error:
        raise click.ClickException(f"The database was not migrated and is as it was: {error}") from error
