"""`lepo jobs`: updates of the policy over HTTP: see them, follow one, ask for one, cancel it, run it again."""

import json
from typing import TYPE_CHECKING, Any

import click

from app.commands.connection import asks
from app.commands.output import AS_JSON, LIMIT, moment, say_facts, say_json, say_table

if TYPE_CHECKING:
    from app.client import Lepo
    from app.client.shapes import Event, Job

JOB = click.argument("job_id", metavar="JOB")
STATUSES = ("queued", "running", "succeeded", "failed", "cancelled")


@click.group("jobs", short_help="See, follow, start, cancel and repeat updates of the policy.")
def command() -> None:
    """See, follow, start, cancel and repeat updates of the policy. JOB is an id as `lepo jobs list` prints it."""


@command.command("list")
@LIMIT
@click.option("--status", type=click.Choice(STATUSES), help="Only those.")
@AS_JSON
@asks
def show_all(lepo: "Lepo", limit: int, status: str | None, as_json: bool) -> None:
    """Print the newest jobs: when, state, verdict, what they do now or ended with."""
    rows = lepo.jobs(limit=limit, status=status)
    if as_json:
        say_json([row.raw for row in rows])
        return
    say_table(
        ("asked", "status", "verdict", "by", "id", "phase or error"),
        [
            (
                *(moment(row.raw["created_at"]), row.status, row.verdict, row.raw["requested_by"] or "the worker"),
                *(row.id, row.error or row.phase),
            )
            for row in rows
        ],
        "There are no jobs. One begins by itself when enough answers are graded; now: lepo jobs start",
    )


@command.command("show")
@JOB
@AS_JSON
@asks
def show(lepo: "Lepo", job_id: str, as_json: bool) -> None:
    """Print one job: what it was asked, what it is doing, how it ended."""
    job = lepo.job(job_id)
    if as_json:
        say_json(job.raw)
        return
    say_facts({name: value for name, value in job.raw.items() if name not in {"object", "metrics", "diagnosis"}})
    for name in ("diagnosis", "metrics"):
        if job.raw[name]:
            click.echo(f"\n{name}")
            say_facts(job.raw[name])


@command.command("events")
@JOB
@click.option("--follow", "-f", is_flag=True, help="Go on until the job has ended.")
@click.option("--after", default=0, type=click.IntRange(min=0), help="Begin after the event of this number.")
@AS_JSON
@asks
def events(lepo: "Lepo", job_id: str, follow: bool, after: int, as_json: bool) -> None:
    """Print a job's diary; with --json one object a line."""
    if follow:
        for one in lepo.events(job_id, after=after):
            say_event(one, as_json)
        return
    from app.client import calls

    lepo.job(job_id)  # a job that is not there is told, rather than an empty diary
    while found := lepo.send(calls.events(job_id, after)):
        for one in found:
            say_event(one, as_json)
        after = found[-1].id


@command.command("start")
@click.option("--set", "wishes", multiple=True, metavar="NAME=VALUE", help="A setting for this job alone; repeatable.")
@AS_JSON
@asks
def start(lepo: "Lepo", wishes: tuple[str, ...], as_json: bool) -> None:
    """Ask for an update now, with what is graded by now. Example: --set learning_rate=1e-5."""
    said(lepo.start_job(dict(wish(one) for one in wishes)), as_json)


@command.command("cancel")
@JOB
@AS_JSON
@asks
def cancel(lepo: "Lepo", job_id: str, as_json: bool) -> None:
    """End a job: at once while it waits, at its next sign of life while it runs. Its answers are given back."""
    said(lepo.cancel_job(job_id), as_json)


@command.command("retry")
@JOB
@AS_JSON
@asks
def retry(lepo: "Lepo", job_id: str, as_json: bool) -> None:
    """Ask for an update with the settings of JOB, which has ended."""
    old = lepo.job(job_id)
    if not old.ended:
        raise click.ClickException(f"{job_id} is {old.status}; end it first: lepo jobs cancel {job_id}")
    said(lepo.start_job(old.raw["config"]), as_json)


def wish(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE; a value is JSON where it can be read so, else a word.

    Raises:
        click.BadParameter: it has no `=`.

    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--set")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def said(job: "Job", as_json: bool) -> None:
    """Print what became of a job."""
    if as_json:
        say_json(job.raw)
        return
    click.echo(f"{job.id} is {job.status}. Follow it: lepo jobs events {job.id} --follow")


def say_event(event: "Event", as_json: bool) -> None:
    """Print one line of a diary."""
    if as_json:
        row = {"id": event.id, "kind": event.kind, "message": event.message, "data": event.data}
        click.echo(json.dumps({**row, "created_at": event.created_at.isoformat()}, ensure_ascii=False))
        return
    click.echo(f"{event.created_at.astimezone():%H:%M:%S}  {event.message}")
