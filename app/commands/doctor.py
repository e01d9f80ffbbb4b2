"""`lepo doctor`: look at everything the service needs, whether or not it runs, and say what to do where it is amiss.

Leaves out the checks (`app.doctor`) and repairing anything.
"""

import os
from dataclasses import asdict

import click

from app.commands.output import AS_JSON, say_json

MARKS = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red"), "skip": ("-   ", "white")}


@click.command("doctor", short_help="Look for what is amiss, and say what to do about it.")
@click.option("--url", envvar="LEPO_URL", show_envvar=True, help="The service; else the stack of LEPO_VAR_DIR.")
@AS_JSON
def command(url: str | None, as_json: bool) -> None:
    """Look at settings, port, disk, memory, GPU, model, held-out prompts, database, broker, service and clocks.

    Nothing need run, and nothing is changed. Exits 1 where something is broken; a warning alone exits 0.
    """
    from app.doctor.examination import examine

    found = []
    for one in examine(os.environ, None if url is None else url.rstrip("/")):
        found.append(one)
        if not as_json:
            mark, colour = MARKS[one.state]
            click.echo(f"{click.style(mark, fg=colour)}  {one.check:<9} {one.says}")
            if one.do is not None and one.state in {"warn", "fail"}:
                click.echo(f"                -> {one.do}")
    broken = sum(one.state == "fail" for one in found)
    if as_json:
        say_json({"well": not broken, "findings": [asdict(one) for one in found]})
    else:
        warnings = sum(one.state == "warn" for one in found)
        click.echo(f"\n{broken} broken, {warnings} to look at." if broken or warnings else "\nAll is well.")
    if broken:
        raise click.exceptions.Exit(1)
