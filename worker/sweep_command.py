"""`lepo sweep`: remove, now and to the end, what is too old to keep."""

import json
from contextlib import closing

import click


@click.command("sweep", short_help="Remove what is too old to keep.")
@click.option("--dry-run", is_flag=True, help="Count the rows that would go, and remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(*, dry_run: bool, as_json: bool) -> None:
    """Remove rows and files whose time is over (LEPO_KEEP_*, LEPO_DISK_QUOTA), as the worker does every hour.

    Works in batches, beside a running service.
    """
    from app.settings import read_settings
    from app.stack.addresses import database_address
    from app.store.connect import open_store
    from app.store.retention import sweep

    settings = read_settings()
    with closing(open_store(database_address(settings), pool=1)) as store:
        counts = sweep(store, settings, dry_run=dry_run)
        if not dry_run:
            from worker.sweep import sweep_files

            counts |= sweep_files(store, settings)
    if as_json:
        click.echo(json.dumps({"dry_run": dry_run, "removed": counts}))
        return
    for what, count in counts.items():
        click.echo(f"{count:>9}  {what}")
    click.echo("Nothing was removed." if dry_run or not counts else f"{sum(counts.values())} removed.")
