"""`lepo bench offpolicy`: what late grades teach, for each way of weighing what another policy drew, in one process.

The demo's model learns the demo's problems with grades that come ten updates late on average, against the same with
grades at once. Runs are kept as JSON files, so an interrupted bench goes on where it was. Leaves out one run (`trial`)
and the arithmetic of the report (`report`).
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.report import Bound, finish, judged

if TYPE_CHECKING:
    from benchmarks.offpolicy.conditions import Condition, Plan

BOUNDS = (Bound("late_gain_share", 0.8, "at least"),)
CLEAN = "clean"


@dataclass(frozen=True, slots=True)
class Preset:
    """How much is measured."""

    seeds: int
    updates: int
    conditions: tuple[str, ...]  # beside the clean and the default one; empty: all


PRESETS = {
    "quick": Preset(seeds=1, updates=20, conditions=("late-versions",)),
    "full": Preset(seeds=3, updates=40, conditions=()),
}


@click.command("offpolicy")
@click.option("--quick", is_flag=True, help="One seed, half the updates, three conditions: about four minutes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on the last line.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the report to this file too.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path("var/offpolicy"), help="Where runs are kept.")
def command(quick: bool, as_json: bool, out: Path | None, cache: Path) -> None:
    """Learn from late grades in several ways, beside grades that come at once."""
    from benchmarks.offpolicy.conditions import Plan

    preset = PRESETS["quick" if quick else "full"]
    finish(measure(preset, Plan(updates=preset.updates), cache), as_json=as_json, out=out)


def measure(preset: Preset, plan: "Plan", cache: Path) -> dict[str, Any]:
    """Run every condition with every seed, and make the report."""
    from benchmarks.offpolicy.conditions import CONDITIONS, DEFAULT_CONDITION
    from benchmarks.offpolicy.report import by_lag, compared, gains
    from benchmarks.timing import machine

    facts = machine()
    names = list(dict.fromkeys((CLEAN, DEFAULT_CONDITION, *(preset.conditions or CONDITIONS))))
    runs = {name: [kept(CONDITIONS[name], plan, seed, cache) for seed in range(1, preset.seeds + 1)] for name in names}
    table = compared({name: gains(each, plan.tries) for name, each in runs.items()}, CLEAN)
    report: dict[str, Any] = {
        "benchmark": "offpolicy",
        "late_gain_share": table[DEFAULT_CONDITION]["share"],
        "conditions": {
            name: {
                **table[name],
                "skipped": sum(run["skipped"] for run in each),
                "refused_updates": sum(run["refused"] for run in each),
            }
            for name, each in runs.items()
        },
        "divergence_by_lag": by_lag(runs[CLEAN]),
    }
    settings = {**asdict(preset), **asdict(plan), "default": DEFAULT_CONDITION}
    raw = {name: [run["curve"] for run in each] for name, each in runs.items()}
    return {**report, "bounds": judged(report, BOUNDS), "settings": settings, "machine": facts, "raw": raw}


def kept(condition: "Condition", plan: "Plan", seed: int, cache: Path) -> dict[str, Any]:
    """Give a run from its file, or make it."""
    from benchmarks.offpolicy.trial import Trial
    from benchmarks.timing import tell

    about = hashed(condition, plan)
    file = cache / f"{condition.name}-{seed}-{about}.json"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(Trial(condition, plan, seed).run(tell)), encoding="utf-8")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def hashed(condition: "Condition", plan: "Plan") -> str:
    """Name everything that a run depends on, beside the code."""
    import hashlib

    return hashlib.sha256(json.dumps([asdict(condition), asdict(plan)]).encode()).hexdigest()[:12]
