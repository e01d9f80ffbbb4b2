"""`lepo grades`: what answers are worth over HTTP: read grades, give one, correct an answer, take a grade back."""

from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from app.commands.answer_filters import filters, given
from app.commands.connection import asks
from app.commands.output import AS_JSON, LIMIT, moment, say_json, say_table

if TYPE_CHECKING:
    from app.client import Grade, Lepo

ANSWER = click.argument("answer_id", metavar="ANSWER")
GRADER = click.option("--grader", help="Who grades, among those of this key; a later grade of theirs replaces it.")


@click.group("grades", short_help="Read grades, grade and correct answers, take grades back.")
def command() -> None:
    """Read grades, grade and correct answers, take grades back. ANSWER is the id of an answer (int_...)."""


@command.command("list")
@LIMIT
@filters
@AS_JSON
@asks
def show_all(lepo: "Lepo", limit: int, as_json: bool, **chosen: Any) -> None:
    """Print the newest graded answers, and what their grades come to."""
    rows = list(islice(lepo.interactions(**given(**chosen), graded=True, limit=limit), limit))
    if as_json:
        say_json([{"interaction_id": row.id, "reward": row.raw["reward"], "answer": row.answer} for row in rows])
        return
    say_table(
        ("when", "version", "reward", "graders", "answer id", "answer"),
        [
            (
                *(row.created_at, row.policy_version, row.reward and row.reward.value),
                *(row.reward and row.reward.graders, row.id, row.answer),
            )
            for row in rows
        ],
        "No answer is graded. Grade one: lepo grades add ANSWER 1",
    )


@command.command("show")
@ANSWER
@AS_JSON
@asks
def show(lepo: "Lepo", answer_id: str, as_json: bool) -> None:
    """Print every entry on one answer in the order of writing, superseded ones too, and what they come to."""
    from app.client import operator

    found = lepo.send(operator.entries(answer_id))
    if as_json:
        say_json(found)
        return
    say_table(
        ("when", "state", "value", "grader", "counts", "comment or correction"),
        [
            (
                *(moment(row["created_at"]), row["state"], row["value"]),
                *(f"{row['grader']['kind']}:{row['grader']['id']}", row["counts"], row["comment"] or row["correction"]),
            )
            for row in found["data"]
        ],
        f"Nobody has graded {answer_id}: lepo grades add {answer_id} 1",
    )
    if found["reward"] is not None:
        click.echo(f"They come to {found['reward']['value']:.3f}.")


@command.command("add")
@ANSWER
@click.argument("value", required=False, type=click.FloatRange(0, 1))
@click.option("--correction", help="What the answer should have been.")
@click.option("--comment", help="Why.")
@GRADER
@AS_JSON
@asks
def add(
    lepo: "Lepo",
    answer_id: str,
    value: float | None,
    correction: str | None,
    comment: str | None,
    grader: str | None,
    as_json: bool,
) -> None:
    """Grade ANSWER with VALUE, 0 (wrong) to 1 (right), or say what it should have been, or both."""
    if value is None and correction is None:
        raise click.UsageError("Give a VALUE, or --correction, or both.")
    said(lepo.grade(answer_id, value, correction=correction, comment=comment, grader=grader), as_json)


@command.command("retract")
@ANSWER
@GRADER
@AS_JSON
@asks
def retract(lepo: "Lepo", answer_id: str, grader: str | None, as_json: bool) -> None:
    """Take a grade back."""
    said(lepo.take_back(answer_id, grader=grader), as_json)


@command.command("token")
@ANSWER
@click.option("--seconds", default=3600, show_default=True, type=click.IntRange(min=1), help="How long it is good for.")
@AS_JSON
@asks
def token(lepo: "Lepo", answer_id: str, seconds: int, as_json: bool) -> None:
    """Make a token with which a browser grades this one answer, and print it."""
    made = lepo.grading_token(answer_id, expires_in_s=seconds)
    say_json({"interaction_id": answer_id, "token": made}) if as_json else click.echo(made)


def said(grade: "Grade", as_json: bool) -> None:
    """Print what became of a grade."""
    if as_json:
        say_json(grade.raw)
        return
    worth = "has no grade that counts" if grade.reward is None else f"is worth {grade.reward.value:.3f}"
    click.echo(f"{grade.state.capitalize()}: {grade.interaction_id} {worth}.")
