"""`lepo keys`: create, list and revoke API keys."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@click.group("keys", short_help="Create, list and revoke API keys.")
def command() -> None:
    """Create, list and revoke API keys. Only a digest is stored: a key is shown once."""


@command.command("create")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(["infer", "grade", "admin"]),
    default=("infer", "grade"),
    show_default=True,
    help="What it may do; may be given several times.",
)
@click.option("--days", type=click.IntRange(min=1), help="Days until it expires; without it, never.")
def create(name: str, scopes: tuple[str, ...], days: int | None) -> None:
    """Make a key called NAME and print it."""
    from app.store.keys import create_key

    expires_at = None if days is None else datetime.now(UTC) + timedelta(days=days)
    with transaction() as session:
        _, text = create_key(session, name, scopes, expires_at=expires_at)
    click.echo(text)


@command.command("list")
def show() -> None:
    """Print every key: id, scopes, state, name."""
    from app.store.keys import list_keys

    now = datetime.now(UTC)
    with transaction() as session:
        for key in list_keys(session):
            expired = key.expires_at is not None and key.expires_at <= now
            state = "revoked" if key.revoked_at else "expired" if expired else "open"
            click.echo(f"{key.id:<12} {','.join(key.scopes):<18} {state:<8} {key.name}")


@command.command("revoke")
@click.argument("key_id")
def close(key_id: str) -> None:
    """Close the key with the id KEY_ID (the middle part of lepo-<id>-<secret>) for good."""
    from app.store.keys import revoke

    with transaction() as session:
        key = revoke(session, key_id)
    click.echo(f"Key {key.id} ({key.name}) is revoked.")


@contextmanager
def transaction() -> "Iterator[Session]":
    """Open one transaction on the configured database."""
    from app.settings import read_settings
    from app.stack.addresses import database_address
    from app.store.connect import open_store

    store = open_store(database_address(read_settings()), pool=1)
    try:
        with store.session() as session:
            yield session
    finally:
        store.close()
