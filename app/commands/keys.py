"""`lepo keys`: API keys over HTTP: create, list, limit and revoke them, trust them or put them in quarantine.

`create --direct` is the way in for whom no key opens the service: straight on the database, by who can reach that.
"""

import os
from datetime import UTC, datetime, timedelta
from getpass import getuser
from typing import TYPE_CHECKING

import click

from app.commands.connection import asks, service
from app.commands.output import AS_JSON, say_json, say_table

if TYPE_CHECKING:
    from app.client import Lepo
    from app.client.operator import Trust
    from app.client.operator_shapes import Key

KEY = click.argument("key_id", metavar="KEY_ID")
DAY_S = 86_400


@click.group("keys", short_help="Create, list, limit, revoke, trust and quarantine API keys.")
def command() -> None:
    """Create, list, limit, revoke, trust and quarantine API keys.

    Only a digest is stored: a key is shown once. KEY_ID is the middle part of lepo-<id>-<secret>.
    """


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
@click.option("--direct", is_flag=True, help="Straight on the database, where no key opens the service yet.")
@click.option("--url", envvar="LEPO_URL", show_envvar=True, help="The service; else the stack of LEPO_VAR_DIR.")
@click.option("--key", "api_key", envvar="LEPO_API_KEY", help="An admin key; better in LEPO_API_KEY.")
@AS_JSON
def create(
    name: str,
    scopes: tuple[str, ...],
    days: int | None,
    project: str | None,
    direct: bool,
    url: str | None,
    api_key: str | None,
    as_json: bool,
) -> None:
    """Make a key called NAME and print it."""
    if direct:
        key_id, text = created_directly(name, scopes, days, project)
    else:
        from app.client import operator

        expires_in_s = None if days is None else days * DAY_S
        with service(url, api_key) as lepo:
            made = lepo.send(operator.create_key(name, scopes, expires_in_s=expires_in_s, project=project))
        key_id, text = made.key.id, made.text
    say_json({"id": key_id, "name": name, "key": text}) if as_json else click.echo(text)


@command.command("list")
@AS_JSON
@asks
def show(lepo: "Lepo", as_json: bool) -> None:
    """Print every key: id, project (`*`: the service), scopes, state, trust, name."""
    from app.client import operator

    rows = lepo.send(operator.keys())
    if as_json:
        say_json([row.raw for row in rows])
        return
    say_table(
        ("id", "project", "scopes", "state", "trust", "name"),
        [(row.id, row.project or "*", ",".join(row.scopes), state(row), row.trust, row.name) for row in rows],
        "There are no keys.",
    )


@command.command("limit")
@KEY
@click.option("--requests-per-minute", type=click.IntRange(min=0), help="Of this key.")
@click.option("--tokens-per-minute", type=click.IntRange(min=0), help="Of this key.")
@click.option("--max-choices", type=click.IntRange(min=0), help="Largest `n`, times the number of prompts.")
@AS_JSON
@asks
def limit(lepo: "Lepo", key_id: str, as_json: bool, **limits: int | None) -> None:
    """Hold a key to limits: those that are given; the rest stays. 0 is no bound."""
    from app.client import operator

    given = {name: value for name, value in limits.items() if value is not None}
    if not given:
        raise click.UsageError("Name a limit: --requests-per-minute, --tokens-per-minute or --max-choices.")
    key = lepo.send(operator.limit_key(key_id, **given))
    held = ", ".join(f"{name} {value}" for name, value in given.items())
    say_json(key.raw) if as_json else click.echo(f"Key {key.id} ({key.name}): {held}.")


@command.command("revoke")
@KEY
@AS_JSON
@asks
def close(lepo: "Lepo", key_id: str, as_json: bool) -> None:
    """Close a key for good."""
    from app.client import operator

    key = lepo.send(operator.revoke_key(key_id))
    say_json(key.raw) if as_json else click.echo(f"Key {key.id} ({key.name}) is revoked.")


@command.command("trust")
@KEY
@click.argument("trust", type=click.Choice(["ordinary", "trusted", "quarantined"]))
@click.option("--reason", default="by an operator", show_default=True, help="Why, for the record.")
@AS_JSON
@asks
def trust(lepo: "Lepo", key_id: str, trust: "Trust", reason: str, as_json: bool) -> None:
    """Say what the grades of KEY_ID count for.

    Those of a quarantined key are kept and count for nothing until it is ordinary again; trusted keys are what others
    are compared with (lepo keys agreement).
    """
    from app.client import operator

    key = lepo.send(operator.trust_key(key_id, trust, reason))
    if as_json:
        say_json(key.raw)
        return
    click.echo(f"Key {key.id} ({key.name}) is {key.trust}: {key.raw['trust_reason'] or 'as ever'}.")


@command.command("agreement")
@AS_JSON
@asks
def agree(lepo: "Lepo", as_json: bool) -> None:
    """Print how far each key's newest grades agree with those by trusted keys, those first that disagree most."""
    from app.client import operator

    found = lepo.send(operator.agreement())
    if as_json:
        say_json(found)
        return
    say_table(
        ("key", "trust", "disagrees", "of answers", "mean difference"),
        [
            (
                *(row["key_id"], row["trust"], f"{row['disagreeing']:.0%}"),
                *(row["answers"], row["difference"]),
            )
            for row in found
        ],
        "No answer was graded by a trusted key and by another; trust one: lepo keys trust KEY_ID trusted",
    )


def state(key: "Key") -> str:
    """Say whether a key opens anything."""
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= datetime.now(UTC) else "open"


def created_directly(name: str, scopes: tuple[str, ...], days: int | None, project: str | None) -> tuple[str, str]:
    """Make a key in the configured database; gives its id and its text."""
    from contextlib import closing

    from app.settings import read_settings
    from app.stack.addresses import database_address
    from app.store.audit import done
    from app.store.connect import open_store
    from app.store.keys import create_key

    expires_at = None if days is None else datetime.now(UTC) + timedelta(days=days)
    with closing(open_store(database_address(read_settings()), pool=1)) as store, store.session() as session:
        key, text = create_key(session, name, scopes, expires_at=expires_at, project=project)
        done(session, actor(), "keys create", key.id)
        return key.id, text


def actor() -> str:
    """Say who is at the keyboard; in a container a user may have a number and no name."""
    try:
        return f"login:{getuser()}"
    except (KeyError, OSError):
        return f"login:{os.getuid()}"
