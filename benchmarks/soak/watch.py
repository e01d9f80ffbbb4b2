"""Looking at a running service from outside: memory, files and connections of each process, dead rows, waits.

Leaves out the load and what the figures mean (`benchmarks.soak.command`).
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from benchmarks.chaos.world import World, descendants

LOOK_S: Final = 1.0  # between two looks at the processes
ASK_S: Final = 0.2  # between two questions of a prober
KILO: Final = 1024


@dataclass(slots=True)
class Watched:
    """What was seen, by name of the figure."""

    times_s: list[float] = field(default_factory=list)  # monotonic seconds of each look
    series: dict[str, list[float]] = field(default_factory=dict)  # figure -> a value for each look
    waits_s: dict[str, list[float]] = field(default_factory=dict)  # route -> how long each answer took
    refused: dict[str, int] = field(default_factory=dict)  # route -> answers that were no success


def look(here: World, seen: Watched) -> None:
    """Take every figure once."""
    figures: dict[str, float] = {}
    for part, pid in here.stack.pids.items():
        family = descendants(pid) if part == "postgres" else [pid]
        figures[f"memory_mib.{part}"] = sum(memory(one) for one in family) / KILO
        figures[f"files.{part}"] = sum(open_files(one) for one in family)
    figures["connections"] = float(
        here.one("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
    )
    figures["dead_rows"] = float(here.one("SELECT coalesce(sum(n_dead_tup), 0) FROM pg_stat_user_tables"))
    seen.times_s.append(time.monotonic())
    for name, value in figures.items():
        seen.series.setdefault(name, []).append(value)


def memory(pid: int) -> float:
    """Anonymous memory of a process in KiB, shared pages by their share: what a leak makes grow."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss_Anon:"):
                return float(line.split()[1])
    return 0.0


def open_files(pid: int) -> int:
    """Count a process's open files, sockets among them."""
    with suppress(OSError):
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return 0


def dead_share(here: World) -> float:
    """Give the largest share of dead rows among tables of a thousand rows or more."""
    query = (
        "SELECT coalesce(max(n_dead_tup::float8 / (n_live_tup + n_dead_tup)), 0) FROM pg_stat_user_tables "
        "WHERE n_live_tup + n_dead_tup >= 1000"
    )
    return float(here.one(query))


@contextmanager
def watching(here: World, seen: Watched) -> Iterator[None]:
    """Look, and probe two routes, until the block ends."""
    over = threading.Event()

    def looks() -> None:
        while not over.wait(LOOK_S):
            look(here, seen)

    def probes(path: str) -> Callable[[], None]:
        def ask() -> None:
            with httpx.Client(
                base_url=here.stack.base_url, headers=here.http.headers, timeout=30.0, trust_env=False
            ) as http:
                while not over.wait(ASK_S):
                    began = time.monotonic()
                    try:
                        good = http.get(path).is_success
                    except httpx.HTTPError:
                        good = False
                    seen.waits_s.setdefault(path, []).append(time.monotonic() - began)
                    seen.refused[path] = seen.refused.get(path, 0) + (not good)

        return ask

    threads = [threading.Thread(target=work) for work in (looks, probes("/ready"), probes("/v1/admin/learning"))]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
