"""The screen of `lepo top`: one look at a service laid out for people, or as plain facts.

Leaves out asking (`app.commands.top`). Rates are differences of two looks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from app.client.operator_shapes import Learning
from app.client.shapes import Job
from app.sparkline import sparkline

SCREEN: Final = 80
HALF_WIDTH: Final = 1.96  # standard deviations of a 95% interval
RATES: Final = {"tokens": "generation_tokens_total", "latent steps": "latent_steps_total"}


@dataclass(frozen=True, slots=True)
class Look:
    """What the service said at one moment."""

    at: float  # monotonic seconds
    overview: Mapping[str, Any]
    learning: Learning
    trials: Sequence[Mapping[str, Any]]
    jobs: Sequence[Job]  # the newest first
    metrics: Mapping[str, float]  # summed over labels, without the prefix


def numbers(text: str) -> dict[str, float]:
    """Read Prometheus' text form: the sum of each sample over its labels, its prefix left out."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name.partition(":")[2] or sample.name
            found[name] = found.get(name, 0.0) + sample.value
    return found


def facts(now: Look) -> dict[str, Any]:
    """Give what the screen shows as plain values."""
    return {
        "overview": now.overview,
        "learning": now.learning.raw,
        "trials": list(now.trials),
        "jobs": [job.raw for job in now.jobs],
        "metrics": now.metrics,
    }


def panel(now: Look, before: Look | None) -> Panel:
    """Lay out one look; `before`: an earlier one, for rates."""
    grid = Table.grid(padding=(0, 3))
    for name, value in rows(now, before):
        grid.add_row(Text(name, style="bold"), value)
    history: Sequence[Mapping[str, Any]] = now.overview["history"]
    curve = Text(sparkline([point["accuracy"] for point in history]), style="green")
    parts: list[Any] = [grid, Text(), curve]
    if now.jobs:
        parts += [Text(), updates(now.jobs)]
    return Panel(Group(*parts), title="lepo top", subtitle=f"{datetime.now().astimezone():%H:%M:%S}", width=SCREEN)


def rows(now: Look, before: Look | None) -> list[tuple[str, str]]:
    """Write each line's name and words."""
    seen = now.overview
    undecided = ", ".join(f"{version} {state}" for version, state in seen["undecided"].items())
    return [
        ("serving", f"version {seen['serving_version']}" + (f", undecided: {undecided}" if undecided else "")),
        ("held-out", held_out(seen["history"])),
        ("learning", doing(now)),
        *(("trial", f"{one['stage']} of {one['version']}: {short(one['figures'])}") for one in now.trials),
        ("grades", f"{counted(seen['grades'])}; {now.learning.answers_waiting} answers wait to be learned from"),
        ("grading", counted(seen["grading"])),
        ("updates", counted(seen["verdicts"])),
        ("swaps", counted(seen["swaps"])),
        ("answers", f"{seen['interactions']} remembered, {seen['learned']} learned from"),
        ("engine", engine(now, before)),
    ]


def held_out(history: Sequence[Mapping[str, Any]]) -> str:
    """Say how good the newest measured policy is, beside the first."""
    if not history:
        return "not measured: no held-out prompts (LEPO_HELDOUT), or none asked yet"
    first, last = history[0], history[-1]
    spread = HALF_WIDTH * (last["accuracy"] * (1 - last["accuracy"]) / last["total"]) ** 0.5
    words = f"{last['accuracy']:.1%} ± {spread:.1%} by version {last['version']}"
    return words if first is last else f"{words}; {first['accuracy']:.1%} by version {first['version']}"


def doing(now: Look) -> str:
    """Say what learning does now, or what it waits for."""
    job = now.overview["current_job"]
    if job is not None:
        return f"an update runs: {job['phase'] or 'starting'}"
    return now.learning.waiting_for or "ready: the next look of the worker begins an update"


def engine(now: Look, before: Look | None) -> str:
    """Say how busy the server is."""
    seen = now.metrics
    running, waiting, slots = (seen.get(name, 0) for name in ("num_requests_running", "num_requests_waiting", "slots"))
    words = f"{running:.0f} of {slots:.0f} slots busy, {waiting:.0f} waiting"
    if before is None:
        return words
    passed = max(1e-3, now.at - before.at)
    rates = (
        f"{max(0.0, seen.get(name, 0) - before.metrics.get(name, 0)) / passed:.0f} {what}/s"
        for what, name in RATES.items()
    )
    return f"{words}, {', '.join(rates)}"


def updates(jobs: Sequence[Job]) -> Table:
    """Lay out the newest updates."""
    table = Table("update", "state", "what came of it", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for job in jobs:
        asked = datetime.fromisoformat(job.raw["created_at"]).astimezone()
        words = job.error or job.verdict or job.phase or "-"
        table.add_row(f"{asked:%H:%M:%S}", job.status, Text(" ".join(words.split()), no_wrap=True, overflow="ellipsis"))
    return table


def counted(counts: Mapping[str, int]) -> str:
    """Write counts by name."""
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "0"


def short(figures: Mapping[str, Any]) -> str:
    """Write a trial's plain figures."""
    plain = {name: value for name, value in figures.items() if isinstance(value, (int, float, str))}
    return ", ".join(f"{name} {f'{one:.3g}' if isinstance(one, float) else one}" for name, one in plain.items())
