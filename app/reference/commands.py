"""The page of the command line, from the real parser."""

from collections.abc import Iterator
from typing import Final

import click

HEAD: Final = """\
# Commands

Every command, as `lepo ... --help` says it. Settings are environment variables ([settings](../settings.md)).
Commands that speak to the running service find it, and a key, by themselves in the directory where `lepo up` runs;
elsewhere they take `--url` and `--key`, or `LEPO_URL` and `LEPO_API_KEY`.
"""


def page(root: click.Group) -> str:
    """Write every command under a group."""
    parts = [HEAD]
    for path, command in leaves(root, ("lepo",)):
        parts += [f"\n## {' '.join(path)}\n", *described(path, command)]
    return "\n".join(parts) + "\n"


def leaves(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Give every command that is no group, with the words that call it."""
    with click.Context(group) as ctx:
        for name in group.list_commands(ctx):
            _, command, _ = group.resolve_command(ctx, [name])
            assert command is not None, "it is listed"
            if isinstance(command, click.Group):
                yield from leaves(command, (*path, name))
            else:
                yield (*path, name), command


def described(path: tuple[str, ...], command: click.Command) -> Iterator[str]:
    """Write one command: how it is called, what it does, its options."""
    with click.Context(command, info_name=" ".join(path)) as ctx:
        yield f"```\n{ctx.command_path} {' '.join(command.collect_usage_pieces(ctx))}\n```\n"
        yield f"{plain(command.help or '')}\n"
        rows = [record for one in command.get_params(ctx) if (record := one.get_help_record(ctx)) is not None]
        if rows:
            yield "| option | |\n|---|---|"
            yield from (f"| `{cell(name)}` | {cell(words)} |" for name, words in rows)


def plain(words: str) -> str:
    """Write a help text as Markdown; what click keeps as it is becomes code."""
    blocks = words.split("\n\n")
    return "\n\n".join(
        "```\n" + block.replace("\b\n", "") + "\n```" if block.startswith("\b\n") else block for block in blocks
    )


def cell(text: str) -> str:
    """Write a text inside a table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
