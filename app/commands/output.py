"""What commands print: tables for people, JSON for machines. Plain text, so that it can be cut and searched."""

import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
LIMIT = click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000), help="Rows at most.")


def say_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def say_table(heads: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Print columns under heads; on a terminal the last column ends where the line does.

    Args:
        heads: a word per column.
        rows: their cells; None is a dash.
        empty: what to say where there is no row.

    """
    cells = [[cell(one) for one in row] for row in rows]
    if not cells:
        click.echo(empty)
        return
    widths = [max(len(row[column]) for row in [list(heads), *cells]) for column in range(len(heads))]
    most = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in [[head.upper() for head in heads], *cells]:
        line = "  ".join(f"{one:<{width}}" for one, width in zip(row, widths, strict=True)).rstrip()
        click.echo(line if most is None or len(line) <= most else line[: most - 1] + "…")


def say_facts(facts: Mapping[str, object]) -> None:
    """Print names and values, a line each."""
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        click.echo(f"{name:<{width}}  {cell(value)}")


def cell(value: object) -> str:
    """Write one value on one line."""
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.3f}"
        case datetime():
            return f"{value.astimezone():%Y-%m-%d %H:%M:%S}"
        case Mapping():
            text = ", ".join(f"{name} {cell(one)}" for name, one in value.items())
        case list() | tuple():
            text = ", ".join(cell(one) for one in value)
        case _:
            text = "" if value is None else " ".join(str(value).split())
    return text or "-"


def moment(text: str | None) -> datetime | None:
    """Read a time of the API."""
    return None if text is None else datetime.fromisoformat(text)
