"""The door `lepo bench online`: conditions one after another, each kept as soon as it is done."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
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
    Bound("bad_update_served_share", 0.10, "at most"),  # of requests while it was on trial; the worst seed
    Bound("bad_update_rolled_back", 1, "at least"),  # by the service itself, in every seed
    Bound("failed", 0, "at most"),  # HTTP calls
)
MEASURE: Final = "clean-batch"  # condition by which late ones are timed, and others compared
ROW: Final = (
    "served_share",
    "rolled_back",
    "requests_of_it",
    "requests_meanwhile",
    "seconds",
    "poisoned_share",
    "reward",
    "reward_beside",
)  # of a bad update, seed by seed


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
@click.option("--seeds", default="0", show_default=True, help="Of the users, separated by commas; all of it for each.")
@click.option("--fresh", is_flag=True, help="Run conditions anew that were run before.")
@click.option(
    "--directory",
    default=Path("var/online"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Keeps each condition's figures, so that a run can go on where it was ended.",
)
@click.option(
    "--merge",
    "parts",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Run nothing: put together reports that --out wrote, of the same code, plan and processor.",
)
@click.option("--docs", type=click.Path(file_okay=False, path_type=Path), help="Write online.md and its picture here.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the JSON here too.")
def command(
    names: str,
    grades: int,
    seconds: float,
    problems: int,
    seeds: str,
    fresh: bool,
    directory: Path,
    parts: Sequence[Path],
    docs: Path | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Drive the whole service with simulated users, one grade per answer, and watch its accuracy.

    Every condition runs in a stack of its own on loopback, stops by itself, and is kept under --directory. Late grades
    are late by intervals between updates of `clean-batch` of the same seed, which is run first where it is needed.
    """
    from benchmarks.online.parts import Unlike, merged

    if parts:
        try:
            trials, settings, facts = merged([json.loads(part.read_text(encoding="utf-8")) for part in parts])
        except Unlike as error:
            raise click.UsageError(str(error)) from error
    else:
        trials, settings, facts = run(
            chosen_of(names),
            seeds_of(seeds),
            {"grades": grades, "limit_s": seconds, "problems": problems},
            directory,
            fresh,
        )
    report = report_of(trials, settings, facts)
    if docs is not None:
        from benchmarks.online.page import write_page
        from benchmarks.online.picture import draw

        draw(docs / "pictures" / "online.png", trials)
        (docs / "online.md").write_text(write_page(report), encoding="utf-8")
    finish(report, as_json=as_json, out=out)


def chosen_of(names: str) -> list[str]:
    """Read which conditions are wanted; what others are measured by comes first.

    Raises:
        click.BadParameter: there is none of that name.

    """
    chosen = list(dict.fromkeys(names.split(",")))
    if unknown := sorted(set(chosen) - set(CONDITIONS)):
        raise click.BadParameter(f"unknown: {', '.join(unknown)}; there are {', '.join(CONDITIONS)}")
    if any(CONDITIONS[name].by_answers for name in chosen):
        return [MEASURE, *(name for name in chosen if name != MEASURE)]
    return chosen


def seeds_of(text: str) -> list[int]:
    """Read the seeds.

    Raises:
        click.BadParameter: one is not a number from 0.

    """
    if not all(seed.isdecimal() for seed in text.split(",")):
        raise click.BadParameter(f"seeds must be numbers separated by commas, not {text}")
    return list(dict.fromkeys(map(int, text.split(","))))


def run(
    names: Sequence[str], seeds: Sequence[int], wanted: Mapping[str, Any], directory: Path, fresh: bool
) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Run conditions for each seed; returns the trials, how they were asked for, and where they ran.

    Raises:
        click.ClickException: there is nothing to say how late late grades are.

    """
    from benchmarks.online.parts import code_version
    from benchmarks.online.trial import Plan
    from benchmarks.timing import machine

    facts, code, trials = machine(), code_version(), []
    for seed in seeds:
        plan, interval_s = Plan(seed=seed, **wanted), 0.0
        made_by = {"code": code, "processor": facts["processor"], "cores": facts["cores"]}
        for name in names:
            late_by_s = interval_s if CONDITIONS[name].by_answers else 0.0
            if CONDITIONS[name].by_answers and not late_by_s:
                raise click.ClickException(f"{MEASURE} of seed {seed} promoted no update, so {name} has no interval")
            trials.append(run_or_recall(name, plan, directory, made_by, late_by_s, fresh=fresh))
            interval_s = trials[-1]["update_interval_s"] or 0.0 if name == MEASURE else interval_s
    settings = {**asdict(plan), "seeds": list(seeds), "code": code}
    del settings["seed"]
    return trials, settings, facts


def run_or_recall(
    name: str, plan: "Plan", directory: Path, made_by: Mapping[str, Any], interval_s: float, *, fresh: bool
) -> dict[str, Any]:
    """Run a condition, unless its figures of the same plan, code and processor lie there from before."""
    from benchmarks.online.trial import try_condition
    from benchmarks.timing import tell

    condition = CONDITIONS[name]
    made_of = {"condition": asdict(condition), "plan": asdict(plan), "interval_s": interval_s, **made_by}
    kept = directory / f"{name}-{plan.grades}-{plan.seed}.json"
    if kept.exists() and not fresh:
        known: dict[str, Any] = json.loads(kept.read_text())
        if known["made_of"] == made_of:
            tell(f"{name}, seed {plan.seed}: kept from before")
            return dict(known["trial"])
    trial = try_condition(condition, plan, tell, interval_s)
    directory.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"made_of": made_of, "trial": trial}, indent=1, allow_nan=False) + "\n")
    tell(f"{name}, seed {plan.seed}: {100 * trial['gain']:+.1f} points in {trial['seconds']:.0f} s")
    return trial


def report_of(
    trials: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Put the figures together, means over seeds; a bound whose conditions were not run is not judged."""
    by_seed: dict[str, dict[str, float]] = {}
    for trial in trials:
        if trial["condition"]["rollback"] and not trial["rollback"]:
            continue  # too few grades came for one: no such condition was run
        by_seed.setdefault(str(trial["condition"]["name"]), {})[str(trial["seed"])] = float(trial["gain"])
    gains = {name: fmean(found.values()) for name, found in by_seed.items()}
    clean = [gain for name, gain in gains.items() if name in {"clean-tracker", MEASURE}]
    noisy = [gain for name, gain in gains.items() if name.startswith("noisy-") or name == "flood"]
    learned = [trial for trial in trials if trial["service"]["jobs"]]
    figures: dict[str, Any] = {
        "gain": gains,
        "gain_by_seed": by_seed,
        "after": {f"{trial['condition']['name']}-{trial['seed']}": trial["points"][-1]["accuracy"] for trial in trials},
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
        figures |= share_of(name.replace("-", "_"), by_seed.get(name, {}), by_seed.get(MEASURE, {}))
    for name in ("thumbs-up", "corrections"):
        if name in gains:
            figures[f"{name.replace('-', '_')}_gain"] = gains[name]
    if "control" in gains:
        figures["control_change"] = max(map(abs, by_seed["control"].values()))
    return {
        "benchmark": "online",
        **figures,
        **bad_updates(trials),
        "bounds": judged({**figures, **bad_updates(trials)}, BOUNDS),
        "raw": list(trials),
        "settings": dict(settings),
        "machine": dict(facts),
    }


def share_of(name: str, gains: Mapping[str, float], clean: Mapping[str, float]) -> dict[str, Any]:
    """Compare a condition's gain with the clean one of the same seed; nothing where there is none."""
    shares = {seed: gain / clean[seed] for seed, gain in gains.items() if clean.get(seed, 0.0) > 0}
    if not shares:
        return {}
    return {f"{name}_gain_share": fmean(shares.values()), f"{name}_gain_share_by_seed": shares}


def bad_updates(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum up the bad updates, one a seed: the largest share served, and whether all were taken back."""
    rows = {str(trial["seed"]): trial["bad_update"] for trial in trials if trial.get("bad_update")}
    if not rows:
        return {}
    return {
        "bad_update_served_share": max(row["served_share"] for row in rows.values()),
        "bad_update_rolled_back": all(row["rolled_back"] for row in rows.values()),
        "bad_update_by_seed": {seed: {key: row[key] for key in ROW if key in row} for seed, row in rows.items()},
    }


if __name__ == "__main__":
    command()
