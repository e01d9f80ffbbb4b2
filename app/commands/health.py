"""`lepo health`: whether a part of the stack does its work, for health checks of containers.

Each check looks at what the part leaves behind (an answer, hints read, hints sent), not at whether a process exists:
that is the container's own business. Leaves out repairing anything.
"""

import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from redis import Redis

    from app.settings import Settings

QUEUES = ("lepo-learn", "lepo-grade")  # where `worker.celery_app` rings
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
    from app.settings import read_settings

    checks: dict[str, tuple[Callable[[Settings], Callable[[], bool]], str]] = {
        "api": (server_answers, "/ready does not say 200"),
        "worker": (hints_are_read, "hints wait unread and no update beats"),
        "beat": (hints_are_sent, "no hint was sent"),
    }
    prepare, trouble = checks[part]
    is_well = prepare(read_settings())
    deadline = time.monotonic() + patience
    while not is_well():
        if time.monotonic() > deadline:
            raise click.ClickException(f"{part} is not well: {trouble} (waited {patience:.0f} s)")
        time.sleep(LOOK_SECONDS)
    click.echo(f"{part} is well")


def server_answers(settings: "Settings") -> Callable[[], bool]:
    """Ask the server on this host."""
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
    from app.stack.addresses import database_address
    from app.store import jobs
    from app.store.connect import open_store

    def look() -> bool:
        with bell(settings) as client:
            if not waiting(client):
                return True
        with closing(open_store(database_address(settings), pool=1)) as store, store.session() as session:
            job = jobs.running(session)
            if job is None or job.heartbeat_at is None:
                return False
            return (jobs.clock(session) - job.heartbeat_at).total_seconds() < HEARTBEAT_SECONDS

    return look


def hints_are_sent(settings: "Settings") -> Callable[[], bool]:
    """Look at the queues, and at how often anything was pushed."""
    with bell(settings) as client:
        before = pushes(client)

    def look() -> bool:
        with bell(settings) as client:
            return waiting(client) or pushes(client) > before

    return look


def bell(settings: "Settings") -> "Redis":
    """Open the Redis that carries the hints; the caller closes it."""
    import redis

    from app.stack.addresses import redis_address
    from app.stack.redis import client_url

    return redis.Redis.from_url(client_url(redis_address(settings)), socket_timeout=3.0)


def waiting(client: "Redis") -> bool:
    """Tell whether a hint lies unread."""
    return any(client.llen(queue) for queue in QUEUES)


def pushes(client: "Redis") -> int:
    """Count what was ever pushed to a list of this Redis."""
    pushed: dict[str, int] = client.info("commandstats").get("cmdstat_lpush", {"calls": 0})
    return int(pushed["calls"])
