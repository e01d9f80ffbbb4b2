"""`lepo keys`: create, list and revoke API keys; trust them or put them in quarantine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from getpass import getuser
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from app.store.trust import Trust


@click.group("keys", short_help="Create, list, revoke, trust and quarantine API keys.")
def command() -> None:
    """Create, list, revoke, trust and quarantine API keys. Only a digest is stored: a key is shown once."""


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
@click.option("--project", help="Whose key it is; without it, an admin key rules the service, others are `default`'s.")
def create(name: str, scopes: tuple[str, ...], days: int | None, project: str | None) -> None:
    """Make a key called NAME and print it."""
    from app.store.audit import done
    from app.store.keys import create_key

    expires_at = None if days is None else datetime.now(UTC) + timedelta(days=days)
    with transaction() as session:
        key, text = create_key(session, name, scopes, expires_at=expires_at, project=project)
        done(session, actor(), "keys create", key.id)
    click.echo(text)


@command.command("list")
def show() -> None:
    """Print every key: id, project (`*`: the service), scopes, state, trust, name."""
    from app.store.keys import list_keys

    now = datetime.now(UTC)
    with transaction() as session:
        for key in list_keys(session):
            expired = key.expires_at is not None and key.expires_at <= now
            state = "revoked" if key.revoked_at else "expired" if expired else "open"
            whose, scopes = key.project_id or "*", ",".join(key.scopes)
            click.echo(f"{key.id:<12} {whose:<12} {scopes:<18} {state:<8} {key.trust:<11} {key.name}")


@command.command("revoke")
@click.argument("key_id")
def close(key_id: str) -> None:
    """Close the key with the id KEY_ID (the middle part of lepo-<id>-<secret>) for good."""
    from app.store.audit import done
    from app.store.keys import revoke

    with transaction() as session:
        key = revoke(session, key_id)
        done(session, actor(), "keys revoke", key.id)
    click.echo(f"Key {key.id} ({key.name}) is revoked.")


@command.command("trust")
@click.argument("key_id")
@click.argument("trust", type=click.Choice(["ordinary", "trusted", "quarantined"]))
@click.option("--reason", default="by an operator", show_default=True, help="Why, for the record.")
def trust(key_id: str, trust: "Trust", reason: str) -> None:
    """Say what the grades of KEY_ID count for.

    Those of a quarantined key are kept and count for nothing until it is ordinary again; trusted keys are what others
    are compared with (lepo keys agreement).
    """
    from app.store.audit import done
    from app.store.trust import set_trust

    with transaction() as session:
        key = set_trust(session, key_id, trust, actor(), reason)
        done(session, actor(), f"keys trust {trust}", key.id)
    click.echo(f"Key {key.id} ({key.name}) is {key.trust}: {key.trust_reason or 'as ever'}.")


@command.command("agreement")
def agree() -> None:
    """Print how far each key's newest grades agree with those by trusted keys, those first that disagree most."""
    from app.settings import read_settings
    from app.store.trust import agreement

    settings = read_settings()
    with transaction() as session:
        found = agreement(session, settings.reward_low, settings.reward_high)
    if not found:
        click.echo("No answer was graded by a trusted key and by another; trust one: lepo keys trust KEY_ID trusted")
    for one in found:
        share = f"disagrees on {one.disagreeing:.0%} of {one.answers} answers"
        click.echo(f"{one.key_id:<12} {one.trust:<11} {share}, mean difference {one.difference:.2f}")


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


def actor() -> str:
    """Say who is at the keyboard; in a container a user may have a number and no name."""
    try:
        return f"login:{getuser()}"
    except (KeyError, OSError):
        return f"login:{os.getuid()}"
