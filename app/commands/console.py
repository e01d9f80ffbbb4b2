"""`lepo console`: a link that signs in to the console once."""

import click

from app.commands.keys import actor


@click.group("console", short_help="Sign in to the console.")
def command() -> None:
    """Sign in to the console: the pages at `/` of a running server."""


@command.command("link")
@click.option("--key", "key_id", help="Id of the key to sign in with; without it, the oldest admin key of the service.")
@click.option("--url", help="Where the server is, as your browser reaches it.  [default: LEPO_HOST and LEPO_PORT]")
def link(key_id: str | None, url: str | None) -> None:
    """Print a link that signs a browser in, once, within ten minutes."""
    from contextlib import closing

    from app.settings import read_settings
    from app.stack.addresses import database_address
    from app.stack.stack import reachable
    from app.store.audit import done
    from app.store.connect import open_store
    from app.store.console_sessions import make_link

    settings = read_settings()
    with closing(open_store(database_address(settings), pool=1)) as store, store.session() as session:
        text = make_link(session, key_id)
        done(session, actor(), "console link", key_id)
    where = url or f"http://{reachable(settings.host)}:{settings.port}"
    click.echo(f"{where.rstrip('/')}/console/sign-in#link={text}")
