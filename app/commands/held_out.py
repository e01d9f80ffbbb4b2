"""`lepo data held-out`: upload held-out prompts, and choose which of them the gate asks, over HTTP."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.commands.connection import asks
from app.commands.output import AS_JSON, say_json, say_table

if TYPE_CHECKING:
    from app.client import Lepo


@click.group("held-out", short_help="Upload held-out prompts, and choose which the gate asks.")
def command() -> None:
    """Upload held-out prompts, and choose which the gate asks. They go before the file that LEPO_HELDOUT names."""


@command.command("upload")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--activate/--no-activate", default=True, show_default=True, help="Have the gate ask them from now on.")
@AS_JSON
@asks
def upload(lepo: "Lepo", file: Path, *, activate: bool, as_json: bool) -> None:
    """Upload FILE, JSONL with a prompt (or messages) and a grader a line, as the next version."""
    from app.client import operator

    try:
        lines = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{file} cannot be read as UTF-8: {error}") from error
    made = lepo.send(operator.upload_held_out(lines, activate=activate))
    if as_json:
        say_json(made.raw)
        return
    then = "the gate asks it" if made.active else f"to have the gate ask it: lepo data held-out activate {made.version}"
    click.echo(f"Held-out set {made.version}, {made.prompts} prompts; {then}.")


@command.command("list")
@AS_JSON
@asks
def show_all(lepo: "Lepo", as_json: bool) -> None:
    """Print what was uploaded, the newest first: version, prompts, whether the gate asks it, who, when, digest."""
    from app.client import operator

    sets = lepo.send(operator.held_out_sets())
    if as_json:
        say_json([one.raw for one in sets])
        return
    say_table(
        ("version", "prompts", "asked", "by", "uploaded", "digest"),
        [(one.version, one.prompts, one.active, one.created_by, one.created_at, one.digest[:12]) for one in sets],
        "Nothing was uploaded; the gate asks what LEPO_HELDOUT names. To upload: lepo data held-out upload FILE",
    )


@command.command("show")
@click.argument("version", type=click.IntRange(min=1))
@AS_JSON
@asks
def show(lepo: "Lepo", version: int, as_json: bool) -> None:
    """Print the lines of VERSION, such as for `lepo eval --part sealed`."""
    from app.client import operator

    found = lepo.send(operator.held_out(version)).raw
    if as_json:
        say_json(found)
        return
    click.echo(found["lines"], nl=not found["lines"].endswith("\n"))


@command.command("activate")
@click.argument("version", type=click.IntRange(min=0))
@AS_JSON
@asks
def activate(lepo: "Lepo", version: int, as_json: bool) -> None:
    """Have the gate ask VERSION from the next update on; 0: what LEPO_HELDOUT names."""
    from app.client import operator

    now = lepo.send(operator.activate_held_out(version))
    if as_json:
        say_json(now)
        return
    what = f"held-out set {version}" if version else "what LEPO_HELDOUT names"
    click.echo(f"The gate asks {what}{'' if now['changed'] else ', as it did'}.")
