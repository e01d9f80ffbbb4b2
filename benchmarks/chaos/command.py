"""The door `lepo bench chaos`: kinds one after another on one running service, an audit after each run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import click

from benchmarks.chaos.queries import COUNTERS
from benchmarks.report import Bound, finish, judged

if TYPE_CHECKING:
    from benchmarks.chaos.trial import Run

RUNS: Final = 5
BOUNDS: Final = (
    *(Bound(name, 0, "at most") for name in COUNTERS),
    Bound("not_recovered", 0, "at most"),  # runs after which the service was not well within the stated time
    Bound("server_errors", 0, "at most"),  # answers of status 500: an error nobody thought of
)
LONG_BOUNDS: Final = (Bound("kinds", 25, "at least"), Bound("runs_of_each", RUNS, "at least"))


@click.command("chaos")
@click.option("--quick", is_flag=True, help="The fast kinds, once each, with smaller faults.")
@click.option("--kinds", "names", help="Only these, separated by commas.")
@click.option("--runs", type=click.IntRange(min=1), help=f"Runs of each kind; {RUNS}, or 1 with --quick.")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the service's files and logs here; left out: a temporary directory.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the JSON here too.")
def command(
    quick: bool, names: str | None, runs: int | None, directory: Path | None, as_json: bool, out: Path | None
) -> None:
    """Break a running service in every way that is known, under traffic, and audit what came of it."""
    from benchmarks.chaos.kinds import KINDS
    from benchmarks.timing import machine

    chosen = names.split(",") if names else [name for name, kind in KINDS.items() if kind.quick or not quick]
    if unknown := sorted(set(chosen) - set(KINDS)):
        raise click.BadParameter(f"unknown: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    times = runs or (1 if quick else RUNS)
    facts = machine()
    with TemporaryDirectory(prefix="lepo-chaos-", ignore_cleanup_errors=True) as temporary:
        done, skipped, statuses = go_through(directory or Path(temporary) / "stack", chosen, times, quick=quick)
    report = report_of(done, skipped, statuses)
    bounds = BOUNDS if quick or names else (*BOUNDS, *LONG_BOUNDS)
    told = {"quick": quick, "runs": times}
    report = {**report, "bounds": judged(report, bounds), "settings": told, "machine": facts}
    finish(report, as_json=as_json, out=out)


def go_through(
    directory: Path, names: Sequence[str], runs: int, *, quick: bool
) -> "tuple[list[Run], dict[str, str], Counter[int]]":
    """Run the kinds on one service; gives the runs, what could not be run and why, and the statuses of responses."""
    from benchmarks.chaos.kinds import KINDS
    from benchmarks.chaos.trial import run
    from benchmarks.chaos.world import LONG, QUICK, world
    from benchmarks.timing import tell

    skipped = {name: why for name in names if (why := KINDS[name].impossible) is not None}
    done = []
    with world(directory, QUICK if quick else LONG) as here:
        for name in [one for one in names if one not in skipped]:
            for number in range(runs):
                result = run(here, KINDS[name])
                done.append(result)
                well = "not well again" if result.recovered_s is None else f"well after {result.recovered_s:.1f} s"
                tell(
                    f"{name} {number + 1}/{runs}: {well}, {result.seconds:.0f} s; {'; '.join(result.words) or 'clean'}"
                )
        for surprise in here.crowd.records.surprises:
            tell(f"a user met {surprise}")
        return done, skipped, here.crowd.records.statuses


def report_of(runs: "Sequence[Run]", skipped: Mapping[str, str], statuses: Mapping[int, int]) -> dict[str, Any]:
    """Put the figures together. What an audit finds, the next ones mostly find again: the worst counts."""
    counts = {name: max((run.counters.get(name, 0) for run in runs), default=0) for name in COUNTERS}
    rows: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(run.kind for run in runs):
        mine = [run for run in runs if run.kind == name]
        times = [run.recovered_s for run in mine if run.recovered_s is not None]
        rows[name] = {
            "runs": len(mine),
            "recovered_s_most": max(times, default=None),
            "not_recovered": sum(run.late for run in mine),
            "seconds": round(sum(run.seconds for run in mine), 1),
            "words": sorted({word for run in mine for word in run.words}),
        }
    return {
        "benchmark": "chaos",
        "kinds": len(rows),
        "runs_of_each": min((row["runs"] for row in rows.values()), default=0),
        **counts,
        "not_recovered": sum(run.late for run in runs),
        "server_errors": statuses.get(500, 0),
        "seconds": round(sum(run.seconds for run in runs), 1),
        "by_kind": rows,
        "skipped": dict(skipped),
        "raw": [asdict(run) for run in runs],
    }


if __name__ == "__main__":
    command()
