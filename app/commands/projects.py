"""`lepo projects`: create, list and limit projects, over HTTP."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from app.commands.connection import asks
from app.commands.output import AS_JSON, say_json, say_table

if TYPE_CHECKING:
    from app.client import Lepo


def limits(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that are limits; 0 is no bound."""
    options: tuple[tuple[str, Any, str], ...] = (
        ("--grading-seconds", click.FloatRange(min=0), "Most seconds a day (UTC) that graders run."),
        ("--stored-bytes", click.IntRange(min=0), "Most bytes of texts and rollouts kept."),
        ("--tokens-per-minute", click.IntRange(min=0), "Tokens a minute of all its keys."),
        ("--requests-per-minute", click.IntRange(min=0), "Requests a minute of all its keys."),
    )
    for name, kind, words in options:
        command = click.option(name, type=kind, help=f"{words} 0: no bound; without it, as the settings say.")(command)
    return command


@click.group("projects", short_help="Create, list and limit projects.")
def command() -> None:
    """Create, list and limit projects: whose keys, answers and grades belong together and are nobody else's."""


@command.command("create")
@click.argument("name")
@limits
@AS_JSON
@asks
def create(lepo: "Lepo", name: str, as_json: bool, **bounds: float | None) -> None:
    """Make a project called NAME; a key for it: lepo keys create KEY --project NAME."""
    from app.client import operator

    made = lepo.send(operator.create_project(name, given(bounds)))
    if as_json:
        say_json(made.raw)
        return
    click.echo(f"Project {name} is there. A key for it: lepo keys create KEY --project {name}")


@command.command("limit")
@click.argument("name")
@limits
@AS_JSON
@asks
def limit(lepo: "Lepo", name: str, as_json: bool, **bounds: float | None) -> None:
    """Change what NAME is held to: what is given; the rest stays."""
    from app.client import operator

    wished = given(bounds)
    made = lepo.send(operator.limit_project(name, wished))
    if as_json:
        say_json(made.raw)
        return
    click.echo(f"Project {name}: " + (", ".join(f"{one} {value:g}" for one, value in wished.items()) or "as before"))


@command.command("list")
@AS_JSON
@asks
def show(lepo: "Lepo", as_json: bool) -> None:
    """Print every project: name, bytes kept, seconds graded today, its own limits."""
    from app.client import operator

    rows = lepo.send(operator.projects())
    if as_json:
        say_json([row.raw for row in rows])
        return
    say_table(
        ("name", "bytes", "graded s", "limits"),
        [
            (
                *(row.id, row.stored_bytes, row.grading_seconds_today),
                ", ".join(f"{name} {value:g}" for name, value in row.limits.items() if value is not None)
                or "as the settings say",
            )
            for row in rows
        ],
        "There are no projects.",
    )


def given(bounds: dict[str, float | None]) -> dict[str, float]:
    """Leave out what was not said."""
    return {name: value for name, value in bounds.items() if value is not None}
