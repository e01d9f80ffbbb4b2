"""The door `lepo bench soak`: a saturated service for some minutes, with a backlog in its database, and without again.

Memory, files, connections and dead rows are judged by the lower end of their slope's interval: growth that is beyond
doubt. The first fifth of the time is not counted: caches fill.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import click

from benchmarks.report import Bound, finish, judged

if TYPE_CHECKING:
    from benchmarks.chaos.world import World
    from benchmarks.soak.watch import Watched

USERS: Final = 12
BACKLOG: Final = 100_000
SHORT_MINUTES: Final = 2.0  # below it slopes are shown and not judged, and the backlog is small
WARM: Final = 0.2  # share of the time that is not counted
PART: Final = 0.2  # share of the time with the backlog, and of each of the two that it is compared with
POSTGRES_FILES: Final = "files.postgres"  # shown, not judged: a connection keeps open what it touched, up to all tables
COMMON: Final = (
    Bound("control_p99_s", 2.0, "at most"),
    Bound("refused", 0, "at most"),  # of the probes, and of the users but for "come again"
    Bound("updates", 2, "at least"),
    Bound("violations", 0, "at most"),  # of the audit of `lepo bench chaos`
)
LONG: Final = (
    Bound("memory_growth_percent_per_minute", 1.0, "at most"),  # lower end, of the process that grows most
    Bound("files_growth_per_minute", 1.0, "at most"),
    Bound("connections_growth_per_minute", 1.0, "at most"),
    Bound("dead_share", 0.5, "at most"),
    Bound("backlog_throughput_share", 0.9, "at least"),
)


@click.command("soak")
@click.option("--minutes", type=click.FloatRange(min=0.2), default=10.0, show_default=True, help="In all.")
@click.option("--users", type=click.IntRange(min=1), default=USERS, show_default=True, help="Who ask without a pause.")
@click.option("--backlog", type=click.IntRange(min=1), help=f"Answers; {BACKLOG}, or 2000 in less than two minutes.")
@click.option("--directory", type=click.Path(file_okay=False, path_type=Path), help="Keep the service's files here.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the JSON here too.")
def command(
    minutes: float, users: int, backlog: int | None, directory: Path | None, as_json: bool, out: Path | None
) -> None:
    """Saturate a service with answers, grades and updates, and see what grows and who waits."""
    from dataclasses import replace

    from benchmarks.chaos.world import LONG as FULL
    from benchmarks.chaos.world import world
    from benchmarks.timing import machine

    short = minutes < SHORT_MINUTES
    many = backlog or (2_000 if short else BACKLOG)
    facts = machine()
    with (
        TemporaryDirectory(prefix="lepo-soak-", ignore_cleanup_errors=True) as temporary,
        world(directory or Path(temporary) / "stack", replace(FULL, backlog=many), users) as here,
    ):
        for user in here.crowd.users:
            user.think_s = 0.0
        figures = soak(here, minutes * 60)
    bounds = COMMON if short else (*COMMON, *LONG)
    told = {"minutes": minutes, "users": users, "backlog": many}
    report = {"benchmark": "soak", **figures, "bounds": judged(figures, bounds), "settings": told, "machine": facts}
    finish(report, as_json=as_json, out=out)


def soak(here: "World", seconds: float) -> dict[str, Any]:
    """Let the load run plain, with a backlog, and plain again; gives the figures."""
    import time

    from benchmarks.chaos.audit import audit
    from benchmarks.chaos.traffic import STALE, tidy, write
    from benchmarks.soak.watch import Watched, dead_share, watching
    from benchmarks.timing import tell

    part, records = seconds * PART, here.crowd.records
    tell("warming up")
    time.sleep(seconds * WARM)
    plain, behind = Watched(), Watched()
    del records.waits_s[:]
    before, began = here.moves(), time.monotonic()
    with watching(here, plain):
        time.sleep(seconds * (1 - WARM - 3 * PART))
        first = rate(here, part)
    updates, took, waits = here.promoted_since(before), time.monotonic() - began, list(records.waits_s)
    tell(f"{first:.1f} answers and grades a second; {updates} updates in {took:.0f} s; now with a backlog")
    write(here, STALE)
    with watching(here, behind):
        loaded = rate(here, part)
    share = dead_share(here)
    tidy(here)
    without = (first + rate(here, part)) / 2  # before and after, for other load on the machine comes and goes
    tell(f"{loaded:.1f} a second with the backlog, {without:.1f} before and after it")
    counters, words = audit(here.store, records, here.version, here.stack.var_dir / "checkpoints")
    for word in words:
        tell(word)
    odd = sum(n for status, n in records.statuses.items() if status >= 400 and status not in {409, 429, 503})
    return {
        **growth(plain),
        "dead_share": share,
        "updates": updates,
        "seconds_per_update": took / max(1, updates),
        "throughput": without,
        "throughput_with_backlog": loaded,
        "backlog_throughput_share": loaded / without if without else 0.0,
        **latencies(plain, behind, waits),
        "refused": odd + sum(plain.refused.values()) + sum(behind.refused.values()),
        "come_again": sum(records.statuses[status] for status in (409, 429, 503)),
        "violations": sum(counters.values()),
        "violations_in_words": words,
    }


def rate(here: "World", seconds: float) -> float:
    """Count what users get done in a second: answers and grades, acknowledged."""
    import time

    records = here.crowd.records
    before, began = len(records.answers) + len(records.grades), time.monotonic()
    time.sleep(seconds)
    return (len(records.answers) + len(records.grades) - before) / (time.monotonic() - began)


def growth(seen: "Watched") -> dict[str, Any]:
    """Say how each figure changes, and the worst growth that is beyond doubt."""
    from benchmarks.soak.slope import slope_of

    slopes = {
        name: slope_of(seen.times_s[-len(values) :], values) for name, values in seen.series.items() if len(values) >= 4
    }
    memory = [100 * one.low / max(1.0, one.mean) for name, one in slopes.items() if name.startswith("memory_mib.")]
    ours = [one.low for name, one in slopes.items() if name.startswith("files.") and name != POSTGRES_FILES]
    return {
        "memory_growth_percent_per_minute": max(memory, default=0.0),
        "files_growth_per_minute": max(ours, default=0.0),
        "connections_growth_per_minute": slopes["connections"].low if "connections" in slopes else 0.0,
        "slopes": {name: asdict(one) for name, one in slopes.items()},
    }


def latencies(plain: "Watched", behind: "Watched", grades_s: "list[float]") -> Mapping[str, Any]:
    """Say how long users and operators waited."""
    from benchmarks.timing import percentiles

    both = {path: plain.waits_s.get(path, []) + behind.waits_s.get(path, []) for path in plain.waits_s}
    control = percentiles(both["/v1/admin/learning"])
    return {
        "grade_s": percentiles(grades_s),
        "ready_s": percentiles(both["/ready"]),
        "control_s": control,
        "control_p99_s": control["p99"],
    }


if __name__ == "__main__":
    command()
