"""The live view: what the running service says of itself, once a second.

On a terminal a panel that redraws; elsewhere (CI, a log file) one line every few seconds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from app.demo.plot import Reading
from app.demo.tally import Tally
from app.sparkline import sparkline


def panel(
    command: str, overview: Mapping[str, Any], readings: Sequence[Reading], tally: Tally, seconds_left: float
) -> Panel:
    """Lay out one moment of the service."""
    grid = Table.grid(padding=(0, 3))
    job = overview["current_job"]
    latest = next((r.accuracy for r in reversed(readings) if r.accuracy is not None), None)
    grades = overview["grades"]
    rows = (
        ("policy version", str(overview["serving_version"])),
        ("held-out accuracy", "not measured yet" if latest is None else f"{latest:.1%}"),
        ("grades", ", ".join(f"{count} {kind}" for kind, count in sorted(grades.items())) or "0"),
        ("updates", _updates(overview) + (f"  now: {job['phase']}" if job else "")),
        ("swaps", _counts(overview["swaps"])),
        ("requests", f"{tally.requests}, {tally.failed} failed"),
        ("answers", f"{overview['interactions']} remembered, {overview['learned']} learned from"),
    )
    for name, value in rows:
        grid.add_row(Text(name, style="bold"), value)
    curve = Text(sparkline([r.accuracy for r in readings if r.accuracy is not None]), style="green")
    return Panel(Group(grid, Text(), curve), title=command, subtitle=f"{seconds_left:.0f} s left", width=76)


def line(overview: Mapping[str, Any], reading: Reading, tally: Tally) -> str:
    """Say one moment of the service in one line."""
    accuracy = "-" if reading.accuracy is None else f"{reading.accuracy:.1%}"
    return (
        f"{reading.seconds:5.0f} s  version {overview['serving_version']}  held-out {accuracy}  "
        f"grades {reading.grades}  updates {_counts(overview['verdicts'])}  swaps {_counts(overview['swaps'])}  "
        f"requests {tally.requests} ({tally.failed} failed)"
    )


def say_errors(console: Console, tally: Tally) -> None:
    """Print the first failures, if there were any."""
    for error in tally.errors:
        console.print(f"failed: {error}", style="red", markup=False)


def _updates(overview: Mapping[str, Any]) -> str:
    """Verdicts of finished updates, and those that ended in an error (the worker's log says which)."""
    broken = overview["jobs"].get("failed", 0) - overview["verdicts"].get("refused", 0)
    return _counts(overview["verdicts"]) + (f", {broken} FAILED" if broken > 0 else "")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "0"
