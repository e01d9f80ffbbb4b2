"""Removing somebody's data over HTTP: asked again until it is finished, and told with the policies that contain it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from app.commands.output import say_json

if TYPE_CHECKING:
    from app.client import Lepo
    from app.client.calls import Call
    from app.client.operator_shapes import Erasure


def erase(lepo: "Lepo", call: "Call[Erasure]") -> "Erasure":
    """Remove until nothing is left; a request ends after some seconds of it."""
    while not (made := lepo.send(call)).finished:
        pass
    return made


def removed(made: "Erasure", as_json: bool) -> None:
    """Print what was removed, and which policies were made from it."""
    if as_json:
        say_json(made.raw)
        return
    click.echo(counted(made.removed))
    for words in contained(made.policies):
        click.echo(words)


def counted(rows: Mapping[str, int]) -> str:
    """Say how many rows of which kind went."""
    found = Counter(rows)
    return ", ".join(f"{count} {what}" for what, count in found.items()) or "Nothing was there to remove."


def contained(policies: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which policies were made from what is removed."""
    return [f"version {one['version']} ({one['state']}) was made from {one['answers']} of them" for one in policies]
