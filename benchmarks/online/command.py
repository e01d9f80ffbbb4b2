"""The door `lepo bench online`: conditions one after another, each kept as soon as it is done."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from benchmarks.online.conditions import CONDITIONS
from benchmarks.report import Bound, finish, judged

if TYPE_CHECKING:
    from benchmarks.online.trial import Plan

BOUNDS: Final = (
    Bound("clean_gain", 0.15, "at least"),  # of the better baseline; exam accuracy, absolute
    Bound("late_gain_share", 0.8, "at least"),  # of the clean condition's gain, by the batch's mean too
    Bound("late_two_branches_gain_share", 0.8, "at least"),
    Bound("two_keys_gain_share", 0.8, "at least"),
    Bound("thumbs_up_gain", 0.0, "at least"),
    Bound("corrections_gain", 0.10, "at least"),
    Bound("noisy_gain", 0.0, "at least"),  # of the worst condition with the noisy mix
    Bound("control_change", 0.06, "at most"),  # either way: two exams of one policy
    Bound("key_share_over_cap", 0.0, "at most"),  # the largest excess of any key in any job
    Bound("failed", 0, "at most"),  # HTTP calls
)


@click.command("online")
@click.option(
    "--conditions",
    "names",
    default=",".join(CONDITIONS),
    show_default=True,
    help="Which, in this order, separated by commas.",
)
@click.option("--grades", type=click.IntRange(min=8), default=1600, show_default=True, help="Grades per condition.")
@click.option("--seconds", type=click.FloatRange(min=1), default=110.0, show_default=True, help="Most time of asking.")
@click.option("--problems", type=click.IntRange(min=10), default=200, show_default=True, help="Problems of one exam.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the users.")
@click.option("--fresh", is_flag=True, help="Run conditions anew that were run before.")
@click.option(
    "--directory",
    default=Path("var/online"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Keeps each condition's figures, so that a run can go on where it was ended.",
)
@click.option("--docs", type=click.Path(file_okay=False, path_type=Path), help="Write online.md and its picture here.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the JSON here too.")
def command(
    names: str,
    grades: int,
    seconds: float,
    problems: int,
    seed: int,
    fresh: bool,
    directory: Path,
    docs: Path | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Drive the whole service with simulated users, one grade per answer, and watch its accuracy.

    Every condition runs in a stack of its own on loopback, stops by itself, and is kept under --directory.
    """
    chosen = names.split(",")
    if unknown := sorted(set(chosen) - set(CONDITIONS)):
        raise click.BadParameter(f"unknown: {', '.join(unknown)}; there are {', '.join(CONDITIONS)}")
    from benchmarks.online.trial import Plan
    from benchmarks.timing import machine

    plan = Plan(grades=grades, limit_s=seconds, problems=problems, seed=seed)
    facts = machine()
    trials = [run_or_recall(name, plan, directory, fresh=fresh) for name in chosen]
    report = report_of(trials, plan, facts)
    if docs is not None:
        from benchmarks.online.page import write_page
        from benchmarks.online.picture import draw

        draw(docs / "pictures" / "online.png", trials)
        (docs / "online.md").write_text(write_page(report), encoding="utf-8")
    finish(report, as_json=as_json, out=out)


def run_or_recall(name: str, plan: "Plan", directory: Path, *, fresh: bool) -> dict[str, Any]:
    """Run a condition, unless its figures under the same plan lie there from before."""
    from benchmarks.online.trial import try_condition
    from benchmarks.timing import tell

    condition = CONDITIONS[name]
    made_of = {"condition": asdict(condition), "plan": asdict(plan)}
    kept = directory / f"{name}-{plan.grades}-{plan.seed}.json"
    if kept.exists() and not fresh:
        known: dict[str, Any] = json.loads(kept.read_text())
        if known["made_of"] == made_of:
            tell(f"{name}: kept from before")
            return dict(known["trial"])
    trial = try_condition(condition, plan, tell)
    directory.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"made_of": made_of, "trial": trial}, indent=1, allow_nan=False) + "\n")
    tell(f"{name}: {100 * trial['gain']:+.1f} points in {trial['seconds']:.0f} s")
    return trial


def report_of(trials: Sequence[Mapping[str, Any]], plan: "Plan", facts: Mapping[str, Any]) -> dict[str, Any]:
    """Put the figures together; a bound whose conditions were not run is not judged."""
    gains = {str(trial["condition"]["name"]): float(trial["gain"]) for trial in trials}
    clean = [gain for name, gain in gains.items() if name in {"clean-tracker", "clean-batch"}]
    noisy = [gain for name, gain in gains.items() if name.startswith("noisy-") or name == "flood"]
    learned = [trial for trial in trials if trial["service"]["jobs"]]
    figures: dict[str, Any] = {
        "gain": gains,
        "after": {trial["condition"]["name"]: trial["points"][-1]["accuracy"] for trial in trials},
        "key_share_over_cap": max(
            (trial["service"]["largest_key_share"] - trial["condition"]["key_share"] for trial in learned), default=0.0
        ),
        "failed": sum(trial["users"]["failed"] for trial in trials),
    }
    if clean:
        figures["clean_gain"] = max(clean)
    if noisy:
        figures["noisy_gain"] = min(noisy)
    for name in ("late", "late-two-branches", "two-keys"):
        if name in gains and gains.get("clean-batch", 0.0) > 0:
            figures[f"{name.replace('-', '_')}_gain_share"] = gains[name] / gains["clean-batch"]
    for name in ("thumbs-up", "corrections"):
        if name in gains:
            figures[f"{name.replace('-', '_')}_gain"] = gains[name]
    if "control" in gains:
        figures["control_change"] = abs(gains["control"])
    return {
        "benchmark": "online",
        **figures,
        "bounds": judged(figures, BOUNDS),
        "raw": list(trials),
        "settings": asdict(plan),
        "machine": dict(facts),
    }


if __name__ == "__main__":
    command()
