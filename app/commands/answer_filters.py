"""The options by which commands choose answers, as a listing and an export know them."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

WHEN = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"])
OPTIONS = (
    click.option("--since", type=WHEN, help="Answers given at this time or later; without a zone it is UTC."),
    click.option("--until", type=WHEN, help="Answers given before this time."),
    click.option("--user", help="Answers to requests that named this user."),
    click.option("--of-key", "key", metavar="KEY_ID", help="Answers that this API key asked for."),
    click.option("--policy-version", type=click.IntRange(min=0), help="Answers of this version."),
    click.option("--learned-by", type=click.IntRange(min=0), help="Those the policy of this version was made from."),
)


def filters(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def given(**chosen: Any) -> dict[str, Any]:
    """Write the options that were given; a time without a zone is UTC."""
    return {
        name: value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value
        for name, value in chosen.items()
        if value is not None
    }
