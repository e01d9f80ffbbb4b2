"""The door `lepo bench gate`: how the gate and the canary's test decide about policies whose true quality is known."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from benchmarks.report import Bound, finish, judged

if TYPE_CHECKING:
    from benchmarks.gate.trial import CanaryRun, Course

LOOKS: Final = 20
START: Final = 0.725  # true mean of the base, but for those that gain
GAIN_FROM: Final = 0.4  # the demo's base
STEP: Final = 0.02
SHARES: Final = (0.1, 0.06, 0.05, 0.03)  # of traffic for a canary, side by side
SHARED: Final = {"fallen_50": 0.5, "fallen_20": 0.2, "equal": 0.0, "risen_10": -0.1}  # how far it is below what serves
LONGEST: Final = 40_000  # grades of such a canary and what serves together
TODAY: Final = 200  # answers an update cost when each version was examined once
BOUNDS: Final = (
    Bound("losing_2_points_after_20", 5.0, "at most"),  # points down, the 95th percentile of runs
    Bound("gaining_2_promoted_share", 0.8, "at least"),  # of looks, mean of runs
    Bound("equal_refused_share_over_20_looks", 0.05, "at most"),  # of looks, mean of runs
    Bound("canary_false_alarms", 0.05, "at most"),  # share of runs with one at any of all looks
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is simulated."""

    runs: int  # lineages per kind
    canaries: int  # pairs of policies per kind
    grades: int = 5000  # of a canary and what serves together, looked at after each
    canary_share: float = 0.1  # of traffic
    canary_level: float = 0.7  # true mean of what serves
    alpha: float = 0.05  # of the canary's test
    margin: float = 0.05  # likewise


@click.command("gate")
@click.option("--quick", is_flag=True, help="Fewer runs: half a minute instead of ten.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the JSON here too.")
def command(quick: bool, as_json: bool, out: Path | None) -> None:
    """Send simulated policies to the gate, look after look, and watch simulated canaries.

    Policies that lose 2 points an update, that gain 2, that stay equal, and that gain first and lose then.
    """
    plan = Plan(runs=12, canaries=60) if quick else Plan(runs=200, canaries=1000)
    finish(measure(plan), as_json=as_json, out=out)


def measure(plan: Plan) -> dict[str, Any]:
    """Run everything; returns the report."""
    from app.settings import Settings
    from benchmarks.timing import machine, tell

    facts, settings = machine(), Settings()
    kinds = {
        "losing": (START, [-STEP] * LOOKS),
        "gaining": (GAIN_FROM, [STEP] * LOOKS),
        "equal": (START, [0.0] * LOOKS),
        "equal_at_0.95": (0.95, [0.0] * LOOKS),
        "gaining_then_losing": (0.6, [STEP] * 5 + [-STEP] * (LOOKS - 5)),
    }
    courses = {name: courses_of(name, start, changes, plan, settings, tell) for name, (start, changes) in kinds.items()}
    canaries = {f"{fall:g}": canaries_of(fall, plan, tell) for fall in (0.0, 0.05, 0.1, 0.2)}
    figures = {**gate_figures(courses), **canary_figures(canaries)}
    shown = {
        name: getattr(settings, name) for name in type(settings).model_fields if name.startswith(("gate_", "heldout_"))
    }
    by_share = {f"{share:g}": share_figures(share, plan, tell) for share in SHARES}
    return {
        "benchmark": "gate",
        **figures,
        "canary_by_share": by_share,
        "bounds": judged(figures, BOUNDS),
        "settings": {**asdict(plan), **shown},
        "machine": facts,
        "raw": {name: [raw_of(one) for one in each] for name, each in courses.items()},
    }


def courses_of(
    name: str, start: float, changes: Sequence[float], plan: Plan, settings: Any, tell: Callable[[str], None]
) -> "list[Course]":
    """Run one kind of lineage."""
    from benchmarks.gate.trial import course

    found = [course(start, changes, seed, settings) for seed in range(plan.runs)]
    tell(f"{name}: {plan.runs} lineages of {len(changes)} looks")
    return found


def canaries_of(fall: float, plan: Plan, tell: Callable[[str], None]) -> "list[CanaryRun]":
    """Run canaries that are worse by `fall`."""
    from benchmarks.gate.trial import canary

    found = [
        canary(plan.canary_level, fall, plan.canary_share, plan.grades, plan.margin, plan.alpha, seed)
        for seed in range(plan.canaries)
    ]
    tell(f"canary {100 * fall:g} points down: {plan.canaries} runs of {plan.grades} grades")
    return found


def share_figures(share: float, plan: Plan, tell: Callable[[str], None]) -> dict[str, Any]:
    """Say what a share of traffic for the canary costs: who meets a bad policy, and how long a good one waits."""
    from benchmarks.gate.trial import canary

    found: dict[str, Any] = {}
    for name, fall in SHARED.items():
        wanted = {"worse"} if fall > 0 else {"better", "not_worse"}
        runs = [
            canary(plan.canary_level, fall, share, LONGEST, plan.margin, plan.alpha, seed) for seed in range(plan.runs)
        ]
        ended = [one for one in runs if one.decision in wanted]
        found[name] = {
            "found_worse" if fall > 0 else "passed": len(ended) / len(runs),
            "grades_median": quantile([one.grades for one in ended], 0.5) if ended else None,
            "canary_grades_median": quantile([one.of_canary for one in ended], 0.5) if ended else None,
            "met_share_p95": quantile([one.of_canary / one.grades for one in ended], 0.95) if ended else None,
        }
    tell(f"canary of {share:g} of traffic: {plan.runs} runs of each kind")
    return found


def gate_figures(courses: "Mapping[str, Sequence[Course]]") -> dict[str, Any]:
    """Sum up the lineages."""
    down = [100 * (one.start - one.end) for one in courses["losing"]]
    fallen = [100 * (one.peak - one.end) for one in courses["gaining_then_losing"]]
    refused = {name: [1 - sum(one.promoted) / len(one.promoted) for one in each] for name, each in courses.items()}
    return {
        "losing_2_points_after_20": quantile(down, 0.95),
        "losing_2_points_after_20_mean": mean(down),
        "losing_runs_by_points_down": {
            f"{points:g}": n for points, n in sorted(Counter(round(x) for x in down).items())
        },
        "gaining_2_promoted_share": 1 - mean(refused["gaining"]),
        "gaining_2_promoted_share_worst_run": 1 - max(refused["gaining"]),
        "equal_refused_share_over_20_looks": mean(refused["equal"]),
        "equal_refused_share_at_0.95": mean(refused["equal_at_0.95"]),
        "equal_runs_with_any_refusal": mean([float(share > 0) for share in refused["equal"]]),
        "points_below_peak_after_5_up_15_down": {"mean": mean(fallen), "p95": quantile(fallen, 0.95)},
        "answers_per_look": {
            name: mean([one.answers / len(one.promoted) for one in each]) for name, each in courses.items()
        },
        "answers_per_look_of_one_exam": TODAY,
    }


def canary_figures(canaries: "Mapping[str, Sequence[CanaryRun]]") -> dict[str, Any]:
    """Sum up the canaries, by how much worse they are."""
    said = {fall: Counter(one.decision for one in runs) for fall, runs in canaries.items()}
    detects = {}
    for fall in ("0.1", "0.2"):
        found = sorted(one.of_canary for one in canaries[fall] if one.decision == "worse")
        every = sorted(one.grades for one in canaries[fall] if one.decision == "worse")
        detects[f"{100 * float(fall):g}_points"] = {
            "share": len(found) / len(canaries[fall]),
            "canary_grades_median": quantile(found, 0.5) if found else None,
            "canary_grades_p90": quantile(found, 0.9) if found else None,
            "all_grades_median": quantile(every, 0.5) if every else None,
        }
    return {
        "canary_false_alarms": mean([float(one.alarmed) for one in canaries["0"]]),
        "canary_passed_though_5_points_down": said["0.05"]["not_worse"] / len(canaries["0.05"]),
        "canary_detects": detects,
        "canary_said": {f"{100 * float(fall):g}_points_down": dict(counts) for fall, counts in said.items()},
    }


def raw_of(one: "Course") -> str:
    """Keep of a lineage which looks passed it, and where it ended: "++-+ 0.685"."""
    return "".join("+" if passed else "-" for passed in one.promoted) + f" {one.end:.3f}"


def mean(values: Sequence[float]) -> float:
    """Round the mean to what 200 runs can tell."""
    return round(sum(values) / len(values), 4)


def quantile(values: Sequence[float], share: float) -> float:
    """Give the smallest value that is not below this share of them."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, -int(-len(ordered) * share // 1) - 1)], 4)


if __name__ == "__main__":
    command()
