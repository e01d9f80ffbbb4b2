"""Stopping a whole Postgres: as with a frozen host, its sockets stay open and nothing answers."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.stack.postgres import EmbeddedPostgres


def family(pid: int) -> list[int]:
    """A process and those it has started, the parent first."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def postmaster(server: EmbeddedPostgres) -> int:
    return int((server.data_dir / "postmaster.pid").read_text().split("\n", maxsplit=1)[0])


@contextmanager
def stopped(server: EmbeddedPostgres) -> Iterator[float]:
    """Keep a server stopped while the block runs; gives the moment it stopped."""
    pids = family(postmaster(server))
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield time.monotonic()
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)
