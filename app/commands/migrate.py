"""`lepo migrate`: bring the database to this release's schema."""

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
    if down:
        downgrade(url, to)
        click.echo(f"The database is back at {to}.")
    else:
        click.echo(f"The database is at revision {upgrade(url, to)}.")
