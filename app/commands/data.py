"""`lepo data`: read and export what is stored, delete a user's data, and upload held-out prompts, over HTTP."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.commands.answer_filters import filters, given
from app.commands.connection import asks
from app.commands.erasing import erase, removed
from app.commands.held_out import command as held_out
from app.commands.output import AS_JSON, LIMIT, say_facts, say_json, say_table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.client import Lepo
    from app.data_files import Record

GRADED = click.option("--graded/--ungraded", default=None, help="Only those with, or without, an effective grade.")


@click.group("data", short_help="Read and export what is stored, and delete a user's data.")
def command() -> None:
    """Read and export what is stored, and delete a user's data. ANSWER is the id of an answer (int_...)."""


command.add_command(held_out)


@command.command("list")
@LIMIT
@filters
@GRADED
@AS_JSON
@asks
def show_all(lepo: "Lepo", limit: int, as_json: bool, **chosen: Any) -> None:
    """Print the newest answers: when, version, reward, answer."""
    rows = list(islice(lepo.interactions(**given(**chosen), limit=limit), limit))
    if as_json:
        say_json([row.raw for row in rows])
        return
    say_table(
        ("when", "version", "reward", "user", "answer id", "answer"),
        [
            (
                *(row.created_at, row.policy_version, row.reward and row.reward.value),
                row.raw["user"],
                row.id,
                row.answer,
            )
            for row in rows
        ],
        "No answer fits.",
    )


@command.command("show")
@click.argument("answer_id", metavar="ANSWER")
@AS_JSON
@asks
def show(lepo: "Lepo", answer_id: str, as_json: bool) -> None:
    """Print one answer: what was asked, what was said, what it is worth, and what learning made of it."""
    found = lepo.interaction(answer_id).raw
    if as_json:
        say_json(found)
        return
    left_out = {"object", "request", "prompt_text", "answer", "grader"}
    say_facts({name: value for name, value in found.items() if name not in left_out})
    click.echo(f"\nprompt\n{found['prompt_text']}\n\nanswer\n{found['answer']}")


@command.command("export")
@click.option("--format", "form", type=click.Choice(["jsonl", "parquet"]), default="jsonl", show_default=True)
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The file to write.")
@filters
@GRADED
@click.option("--with-rollouts", is_flag=True, help="With each answer's rollout, as far as it is kept.")
@click.option("--after", help="Begin after the answer of this id, such as the last of an earlier export.")
@click.option("--resume", is_flag=True, help="jsonl: go on with what a broken-off export left beside --out.")
@AS_JSON
@asks
def export(
    lepo: "Lepo",
    form: str,
    out: Path,
    with_rollouts: bool,
    after: str | None,
    resume: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Write answers with their grades, the oldest first, to a file that is there when it is whole."""
    from app.data_files import Parquet, export_file

    if resume and form == "parquet":
        raise click.UsageError("--resume goes with jsonl; a Parquet file is written in one go. Use --after.")
    if form == "parquet":
        Parquet.require()

    def records(begin: str | None) -> "Iterable[Record]":
        return lepo.export(**given(**chosen), after=begin, rollouts=with_rollouts)

    try:
        count, last = export_file(records, out, form=form, after=after, rollouts=with_rollouts, resume=resume)
    except OSError as error:
        raise click.ClickException(f"{out} cannot be written: {error.strerror}; go on with --resume") from error
    if as_json:
        say_json({"answers": count, "file": str(out), "last": last})
        return
    click.echo(f"{count} answers in {out}" + ("" if last is None else f"; go on with --after {last}"))


@command.command("delete")
@click.option("--user", help="Every answer to requests that named this user.")
@click.option("--of-key", "key", metavar="KEY_ID", help="With --user: only what this API key asked.")
@click.option("--answer", help="This one answer (int_...).")
@AS_JSON
@asks
def delete(lepo: "Lepo", user: str | None, key: str | None, answer: str | None, as_json: bool) -> None:
    """Remove a user's answers, or one, with all that was stored of them; say which policies contain them.

    A session: lepo sessions delete.
    """
    from app.client import operator

    if (user is None) == (answer is None) or (key is not None and user is None):
        raise click.UsageError("Name a --user (and perhaps a key of theirs, --of-key), or an --answer.")
    removed(erase(lepo, operator.erase_user(user, key=key) if user else operator.erase_answer(str(answer))), as_json)
