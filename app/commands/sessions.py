"""`lepo sessions`: conversations and episodes over HTTP: read them, grade a whole one, remove one."""

from itertools import islice
from typing import TYPE_CHECKING

import click

from app.commands.connection import asks
from app.commands.erasing import erase, removed
from app.commands.output import AS_JSON, LIMIT, say_facts, say_json, say_table

if TYPE_CHECKING:
    from app.client import Lepo

SESSION = click.argument("session", metavar="SESSION")


@click.group("sessions", short_help="Read, grade and remove sessions of several turns.")
def command() -> None:
    """Read, grade and remove sessions of several turns. SESSION is an id (sess_...), or the name its key gave it."""


@command.command("list")
@LIMIT
@click.option("--name", help="Only those of this name.")
@click.option("--of-key", "key", metavar="KEY_ID", help="Only those of this API key.")
@AS_JSON
@asks
def show_all(lepo: "Lepo", limit: int, name: str | None, key: str | None, as_json: bool) -> None:
    """Print the newest sessions: when, turns, key, name."""
    rows = list(islice(lepo.sessions(name=name, key=key, limit=limit), limit))
    if as_json:
        say_json([row.raw for row in rows])
        return
    say_table(
        ("began", "turns", "key", "id", "name"),
        [(row.created_at, row.turns, row.raw["key"], row.id, row.name) for row in rows],
        "There are no sessions. A request joins one by its session_id, or the header X-Session-Id.",
    )


@command.command("show")
@SESSION
@AS_JSON
@asks
def show(lepo: "Lepo", session: str, as_json: bool) -> None:
    """Print a session: its turns with their answers and rewards, and the grades of the whole."""
    found = lepo.session(session)
    if as_json:
        say_json(found.raw)
        return
    say_facts({name: found.raw[name] for name in ("id", "name", "key", "turns", "credit")})
    click.echo()
    rows = [(turn["turn"], one) for turn in found.raw["data"] for one in turn["answers"]]
    say_table(
        ("turn", "version", "reward", "answer id", "answer"),
        [
            (*(turn, one["policy_version"], (one["reward"] or {}).get("value")), one["interaction_id"], one["answer"])
            for turn, one in rows
        ],
        "It has no turns.",
    )
    for grade in found.raw["grades"]:
        grader = f"{grade['grader']['kind']}:{grade['grader']['id']}"
        click.echo(f"graded as a whole: {grade['value']} by {grader}, {grade['credit']['rule']}, {grade['state']}")


@command.command("grade")
@SESSION
@click.argument("value", type=click.FloatRange(0, 1))
@click.option("--credit", type=click.Choice(["last_turn", "all_turns", "discounted"]), help="Which turns share it.")
@click.option("--discount", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="With discounted.")
@click.option("--comment", help="Why.")
@click.option("--grader", help="Who grades, among those of this key.")
@AS_JSON
@asks
def grade(
    lepo: "Lepo",
    session: str,
    value: float,
    credit: str | None,
    discount: float | None,
    comment: str | None,
    grader: str | None,
    as_json: bool,
) -> None:
    """Grade a whole session with VALUE, 0 to 1."""
    made = lepo.grade_session(session, value, credit=credit, discount=discount, comment=comment, grader=grader)
    if as_json:
        say_json(made.raw)
        return
    click.echo(f"Graded: {made.session_id} with {made.value}, credit {made.rule}.")


@command.command("delete")
@SESSION
@AS_JSON
@asks
def delete(lepo: "Lepo", session: str, as_json: bool) -> None:
    """Remove a session, every answer of its turns, and all that was stored of them."""
    from app.client import operator

    removed(erase(lepo, operator.erase_session(lepo.session(session).id)), as_json)
