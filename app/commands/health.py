"""`lepo health`: whether a part of the stack does its work, for health checks of containers.

Each check looks at what the part leaves behind (an answer, hints read, hints sent), not at whether a process exists:
that is the container's own business. Leaves out repairing anything.
"""

import re
import time
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

import click

from app.stack.redis_question import ask

if TYPE_CHECKING:
    from app.settings import Settings

QUEUES = ("lepo-learn", "lepo-grade")  # where `worker.celery_app` rings
PUSHES = re.compile(r"cmdstat_lpush:calls=(\d+)")
PATIENCE_SECONDS = 20.0
LOOK_SECONDS = 0.5
HEARTBEAT_SECONDS = 30.0  # an update beats once a second


@click.command("health", short_help="Ask whether a part of the stack is well; for health checks.")
@click.argument("part", type=click.Choice(["api", "worker", "beat"]))
@click.option("--patience", default=PATIENCE_SECONDS, show_default=True, help="Seconds to wait for a sign of life.")
def command(part: str, patience: float) -> None:
    """Exit 0 if PART does its work, 1 and say why if not.

    The server must answer /ready. The worker must read its hints, or run an update with a fresh heartbeat. Beat must
    send hints, or have left some that nobody has read yet.
    """
    from app.errors import Unavailable
    from app.settings import read_settings

    checks: dict[str, tuple[Callable[[Settings], Callable[[], bool]], str]] = {
        "api": (server_answers, "/ready does not say 200"),
        "worker": (hints_are_read, "hints wait unread and no update beats"),
        "beat": (hints_are_sent, "no hint was sent"),
    }
    prepare, trouble = checks[part]
    deadline = time.monotonic() + patience
    is_well = prepare(read_settings())
    while True:
        try:
            if is_well():
                click.echo(f"{part} is well")
                return
        except Unavailable as error:
            trouble = error.message
        if time.monotonic() > deadline:
            raise click.ClickException(f"{part} is not well: {trouble} (waited {patience:.0f} s)")
        time.sleep(LOOK_SECONDS)


def server_answers(settings: "Settings") -> Callable[[], bool]:
    """Ask the server on this host."""
    import urllib.error
    import urllib.request

    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104 - not bound

    def look() -> bool:
        try:
            with urllib.request.urlopen(f"http://{host}:{settings.port}/ready", timeout=3.0):
                return True
        except (urllib.error.URLError, OSError):
            return False

    return look


def hints_are_read(settings: "Settings") -> Callable[[], bool]:
    """Look at the queues, and at the running update."""
    bell = bell_address(settings)

    def look() -> bool:
        if not waiting(bell):
            return True
        from app.stack.addresses import database_address
        from app.store import jobs
        from app.store.connect import open_store

        with closing(open_store(database_address(settings), pool=1)) as store, store.session() as session:
            job = jobs.running(session)
            if job is None or job.heartbeat_at is None:
                return False
            return (jobs.clock(session) - job.heartbeat_at).total_seconds() < HEARTBEAT_SECONDS

    return look


def hints_are_sent(settings: "Settings") -> Callable[[], bool]:
    """Look at the queues, and at how often anything was pushed since the first look."""
    bell = bell_address(settings)
    seen: list[int] = []

    def look() -> bool:
        seen.append(pushes(bell))
        return waiting(bell) or seen[-1] > seen[0]

    return look


def bell_address(settings: "Settings") -> str:
    """Find the Redis that carries the hints."""
    if settings.redis_url is not None:
        return settings.redis_url
    from app.stack.addresses import redis_address

    return redis_address(settings)


def waiting(bell: str) -> bool:
    """Tell whether a hint lies unread."""
    return any(ask(bell, *(("LLEN", queue) for queue in QUEUES)))


def pushes(bell: str) -> int:
    """Count what was ever pushed to a list of this Redis."""
    [stats] = ask(bell, ("INFO", "commandstats"))
    found = PUSHES.search(str(stats))
    return int(found[1]) if found else 0
