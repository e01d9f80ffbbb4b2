"""`lepo projects`: create, list and limit projects, straight on the database."""

from collections.abc import Callable
from typing import Any

import click

from app.commands.keys import actor, transaction


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
def create(name: str, **bounds: float | None) -> None:
    """Make a project called NAME; a key for it: lepo keys create KEY --project NAME."""
    from app.store.audit import done
    from app.store.projects import create_project

    with transaction() as session:
        create_project(session, name, **bounds)
        done(session, actor(), "projects create", name)
    click.echo(f"Project {name} is there. A key for it: lepo keys create KEY --project {name}")


@command.command("limit")
@click.argument("name")
@limits
def limit(name: str, **bounds: float | None) -> None:
    """Change what NAME is held to: what is given; the rest stays."""
    from app.store.audit import done
    from app.store.projects import set_limits

    given = {one: value for one, value in bounds.items() if value is not None}
    with transaction() as session:
        set_limits(session, name, given)
        done(session, actor(), "projects limit", name)
    click.echo(f"Project {name}: " + (", ".join(f"{one} {value:g}" for one, value in given.items()) or "as before"))


@command.command("list")
def show() -> None:
    """Print every project: name, bytes kept, seconds graded today, its own limits."""
    from app.store.projects import LIMITS, list_projects, used

    with transaction() as session:
        for project in list_projects(session):
            uses = used(session, project.id)
            own = {name: value for name in LIMITS if (value := getattr(project, name)) is not None}
            held = ", ".join(f"{name} {value:g}" for name, value in own.items()) or "as the settings say"
            click.echo(f"{project.id:<16} {uses.stored_bytes:>14} bytes {uses.grading_seconds:>8.1f} s  {held}")
