"""The commands of this room: `lepo worker` and `lepo beat` become that process, `lepo sweep` sweeps once.

Nothing heavy is imported before a command runs, so their `--help` is quick, and beat never loads torch. Leaves out the
commands that need no service (`worker.offline`).
"""

import json
import logging
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from app.telemetry.log import Format

log = logging.getLogger(__name__)

TASKS: Final = ("learn", "grade", "sweep")
# No gossip, mingle or heartbeats: workers need not know of each other, Postgres knows them all.
WORKER: Final[dict[str, Any]] = {
    "without_gossip": True,
    "without_mingle": True,
    "without_heartbeat": True,
    "quiet": True,
    "loglevel": "WARNING",
}
BEAT: Final[dict[str, Any]] = {"quiet": True, "loglevel": "WARNING"}


@click.command("worker", short_help="Run the process that grades and learns.")
@click.option(
    "--task",
    "tasks",
    type=click.Choice(TASKS),
    multiple=True,
    default=TASKS,
    show_default=True,
    help="Do only this; other workers can then do the others.",
)
def worker(tasks: tuple[str, ...]) -> None:
    """Grade answers, learn from grades and sweep, whenever the clock (`lepo beat`) says to look; watch trials always.

    One task at a time, in this process. Any number of workers may run; one of them learns at a time. Stopped (SIGTERM),
    it gives back what it was learning from.
    """
    import torch
    from celery import signals

    from app.held_out import require_held_out
    from app.settings import read_settings
    from app.stack.addresses import database_address, redis_address
    from app.store.budgets import WORKER as PATIENCE
    from app.store.connect import open_store
    from app.telemetry.log import without_bars
    from app.telemetry.tracing import telemetry_of
    from worker.celery_app import QUEUES, build, register
    from worker.resident import Context, Resident
    from worker.trial import TrialClock
    from worker.watchdog import arm

    settings = read_settings()
    log_plainly(settings.log_format)
    require_held_out(settings)
    telemetry = telemetry_of(settings, "worker")
    without_bars()
    torch.set_num_threads(settings.threads)
    redis_url = redis_address(settings)
    store = open_store(database_address(settings), budget=PATIENCE)
    context = Context(settings, store, redis_url, Resident(settings), alarm=arm(), telemetry=telemetry)
    celery = build(settings, redis_url)
    register(celery, context)
    telemetry.follow_stores(store)
    telemetry.follow_tasks(celery)

    def stop(**_: object) -> None:
        context.stopping.set()

    def ready(**_: object) -> None:
        log.info("worker %s listens for %s", context.name, " and ".join(tasks))

    signals.worker_shutting_down.connect(stop, weak=False)
    signals.worker_ready.connect(ready, weak=False)
    consumer = celery.Worker(queues=[QUEUES[f"lepo.{task}"] for task in tasks], **WORKER)
    try:
        with TrialClock(context.store, settings, redis_url):
            consumer.start()
    finally:
        telemetry.close()
    raise SystemExit(consumer.exitcode or 0)


@click.command("beat", short_help="Run the clock that rings the worker.")
def beat() -> None:
    """Ring workers at LEPO_LEARN_INTERVAL, LEPO_GRADE_INTERVAL and LEPO_SWEEP_INTERVAL. Run exactly one."""
    from app.settings import read_settings
    from app.stack.addresses import redis_address
    from worker.celery_app import build

    settings = read_settings()
    log_plainly(settings.log_format)
    log.info("ringing every %g s to learn and every %g s to grade", settings.learn_interval, settings.grade_interval)
    build(settings, redis_address(settings)).Beat(**BEAT).run()


@click.command("sweep", short_help="Remove what is too old to keep.")
@click.option("--dry-run", is_flag=True, help="Count the rows that would go, and remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def sweep(*, dry_run: bool, as_json: bool) -> None:
    """Remove rows and files whose time is over (LEPO_KEEP_*, LEPO_DISK_QUOTA), as the worker does every hour.

    Works in batches, beside a running service.
    """
    from app.settings import read_settings
    from app.stack.addresses import database_address
    from app.store.connect import open_store
    from app.store.retention import sweep as sweep_rows

    settings = read_settings()
    with closing(open_store(database_address(settings), pool=1)) as store:
        counts = sweep_rows(store, settings, dry_run=dry_run)
        if not dry_run:
            from worker.retention import sweep_files

            counts |= sweep_files(store, settings)
    if as_json:
        click.echo(json.dumps({"dry_run": dry_run, "removed": counts}))
        return
    for what, count in counts.items():
        click.echo(f"{count:>9}  {what}")
    click.echo("Nothing was removed." if dry_run or not counts else f"{sum(counts.values())} removed.")


def log_plainly(form: "Format") -> None:
    """Log our own lines, and Celery's from warnings on."""
    from celery import signals

    from app.telemetry.log import set_up

    def leave_logging_alone(**_: object) -> None:
        """Celery sets logging up only where nobody else listens to this signal."""

    signals.setup_logging.connect(leave_logging_alone, weak=False)
    set_up(form)
