"""`lepo data`: export what is stored, and delete a user's data, straight on the database."""

import json
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.commands.keys import actor

if TYPE_CHECKING:
    from app.store.connect import Store

WHEN = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"])


@click.group("data", short_help="Export what is stored, and delete a user's data.")
def command() -> None:
    """Export what is stored, and delete a user's data. Times without a zone are UTC."""


@command.command("export")
@click.option("--format", "form", type=click.Choice(["jsonl", "parquet"]), default="jsonl", show_default=True)
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The file to write.")
@click.option("--since", type=WHEN, help="Answers given at this time or later.")
@click.option("--until", type=WHEN, help="Answers given before this time.")
@click.option("--user", help="Answers to requests that named this user.")
@click.option("--key", help="Answers that this API key (its id) asked for.")
@click.option("--graded/--ungraded", default=None, help="Only those with, or without, an effective grade.")
@click.option("--learned-by", type=click.IntRange(min=0), help="Only those the policy of this version was made from.")
@click.option("--with-rollouts", is_flag=True, help="With each answer's rollout, as far as it is kept.")
@click.option("--after", help="Begin after the answer of this id, such as the last of an earlier export.")
@click.option("--resume", is_flag=True, help="jsonl: go on with what a broken-off export left beside --out.")
def export(
    form: str,
    out: Path,
    since: datetime | None,
    until: datetime | None,
    user: str | None,
    key: str | None,
    graded: bool | None,
    learned_by: int | None,
    with_rollouts: bool,
    after: str | None,
    resume: bool,
) -> None:
    """Write answers with their grades, the oldest first, to a file that is there when it is whole."""
    from app.data_files import Parquet, export_file
    from app.errors import BadRequest
    from app.identifiers import read
    from app.store.interactions import Filters

    if resume and form == "parquet":
        raise click.UsageError("--resume goes with jsonl; a Parquet file is written in one go. Use --after.")
    try:
        begin = None if after is None else read("int", after)
    except ValueError as error:
        raise BadRequest(f"--after: {error}") from error
    filters = Filters(
        since=in_utc(since), until=in_utc(until), graded=graded, api_key_id=key, user_tag=user, learned_by=learned_by
    )
    if form == "parquet":
        Parquet.require()
    with closing(the_store()) as store:
        count, last = export_file(store, out, filters, form=form, after=begin, rollouts=with_rollouts, resume=resume)
    click.echo(f"{count} answers in {out}" + ("" if last is None else f"; go on with --after {last}"))


@command.command("delete")
@click.option("--user", required=True, help="As requests named them.")
@click.option("--key", help="Only what this API key (its id) asked for.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def delete(user: str, key: str | None, as_json: bool) -> None:
    """Remove every answer to requests of a user, with all that was stored of it; say which policies contain it."""
    from app.store import erasure
    from app.store.erasure import Subject
    from app.store.removed import Erasure

    subject = Subject(user=user, key_id=key)
    with closing(the_store()) as store:
        with store.session() as session:
            wish = erasure.begin(session, subject, actor()).id
        going = True
        while going:
            with store.session() as session:
                going = bool(erasure.step(session, wish, subject))
        with store.session() as session:
            removed, policies = session.get_one(Erasure, wish).removed, erasure.containing(session, subject)
    facts = [{"version": one.version, "state": one.state, "answers": one.answers} for one in policies]
    if as_json:
        click.echo(json.dumps({"removed": removed, "policies": facts}))
        return
    click.echo(", ".join(f"{count} {what}" for what, count in removed.items()) or "Nothing was there to remove.")
    for one in policies:
        click.echo(f"version {one.version} ({one.state}) was made from {one.answers} of the removed answers")


def in_utc(at: datetime | None) -> datetime | None:
    """Read a time without a zone as UTC."""
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at


def the_store() -> "Store":
    """Open the configured database."""
    from app.settings import read_settings
    from app.stack.addresses import database_address
    from app.store.connect import open_store

    return open_store(database_address(read_settings()), pool=1)
