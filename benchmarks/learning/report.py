"""The bench's report: figures by method and family, paired differences to GRPO, and a conclusion made from them.

Leaves out measuring (`loop`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from benchmarks.learning.statistics import difference

TRIES = 8
BASELINE = "grpo"
MEASURES = ("avg@8", "pass@8")
INFERENCES = ("latent", "token")


def table(runs: Sequence[Mapping[str, Any]], family: str, inference: str, measure: str) -> Tensor:
    """Figures of one method, [seeds, problems], float64 in [0, 1]."""
    found = [run["test"][family][inference] for run in runs]
    if measure == "greedy":
        return torch.tensor([one["greedy"] for one in found], dtype=torch.float64)
    right_SN = torch.tensor([one["right"] for one in found], dtype=torch.float64)
    return right_SN / TRIES if measure == "avg@8" else (right_SN > 0).double()


def summarised(
    base: Mapping[str, Any],
    trials: Sequence[Mapping[str, Any]],
    runs: Sequence[Mapping[str, Any]],
    setup: Mapping[str, Any],
) -> dict[str, Any]:
    """Make the report."""
    methods = {one["method"]: [run for run in runs if run["method"] == one["method"]] for one in runs}
    families = list(base["test"])
    wide = [*families, "mean"]

    def figures(of: Sequence[Mapping[str, Any]], family: str, inference: str, measure: str) -> Tensor:
        chosen = families if family == "mean" else [family]
        return torch.cat([table(of, name, inference, measure) for name in chosen], 1)

    def compared(of: Sequence[Mapping[str, Any]], family: str, inference: str) -> dict[str, Any]:
        cell: dict[str, Any] = {m: float(figures(of, family, inference, m).mean()) for m in ("greedy", *MEASURES)}
        for measure in MEASURES:
            pair = figures(of, family, inference, measure), figures(methods[BASELINE], family, inference, measure)
            cell[f"{measure} minus grpo"] = asdict(difference(*pair))
        return cell

    results = {
        name: {
            "test": {family: {one: compared(of, family, one) for one in INFERENCES} for family in wide},
            "curve": [
                {"rollouts": points[0]["rollouts"], "average": sum(p["average"] for p in points) / len(points)}
                for points in zip(*(run["curve"] for run in of), strict=True)
            ],
            **{when: _mean([run[when] for run in of]) for when in ("first", "last")},
            **_mean([{"cpu_seconds": run["cpu_seconds"], "wall_seconds": run["wall_seconds"]} for run in of]),
            "rate": of[0]["rate"],
            "seeds": [run["seed"] for run in of],
        }
        for name, of in methods.items()
    }
    start = {
        family: {m: float(figures([base], family, "token", m).mean()) for m in ("greedy", *MEASURES)} for family in wide
    }
    tuning = [{"method": t["method"], "rate": t["rate"], "validation": t["curve"][-1]["average"]} for t in trials]
    report = {"bench": "learning", "setup": dict(setup), "base": start, "tuning": tuning, "methods": results}
    return {**report, "conclusion": conclusion(results, families)}


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def conclusion(results: Mapping[str, Any], families: Sequence[str]) -> list[str]:
    """Say for every method whether it differs from GRPO, by intervals alone; each by its own inference."""
    said = []
    for name, result in results.items():
        if name == BASELINE:
            continue
        for measure in MEASURES:
            gaps = {at: result["test"][at]["latent"][f"{measure} minus grpo"] for at in (*families, "mean")}
            above = [at for at, gap in gaps.items() if gap["low"] > 0]
            below = [at for at, gap in gaps.items() if gap["high"] < 0]
            parts = [f"above GRPO on {', '.join(above)}"] if above else []
            parts += [f"below GRPO on {', '.join(below)}"] if below else []
            said.append(f"{name}, {measure}: {'; '.join(parts) or 'no difference to GRPO shown on any family'}.")
    return said


def markdown(report: Mapping[str, Any]) -> str:
    """Write the tables."""
    setup = report["setup"]
    lines = [
        "# LEPO against its rivals",
        "",
        _preamble(setup),
        "",
        *(f"- {sentence}" for sentence in report["conclusion"]),
        "",
        "## The base, before any learning (token inference)",
        "",
        "| family | greedy | avg@8 | pass@8 |",
        "|---|---|---|---|",
        *(_share_row(at, cell) for at, cell in report["base"].items()),
        "",
        "## After learning",
        "",
        "| family | method | inference | greedy | avg@8 | pass@8 | avg@8 minus GRPO | pass@8 minus GRPO |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for family in report["base"]:
        for name, result in report["methods"].items():
            for inference, cell in result["test"][family].items():
                shares = " | ".join(_percent(cell[measure]) for measure in ("greedy", *MEASURES))
                gaps = " | ".join(_gap(cell[f"{measure} minus grpo"]) for measure in MEASURES)
                lines.append(f"| {family} | {name} | {inference} | {shares} | {gaps} |")
    lines += ["", "## Rollouts and cost", "", _header(), "|---" * 9 + "|"]
    for name, one in report["methods"].items():
        first, last = one["first"], one["last"]
        lines.append(
            f"| {name} | {one['rate']:g} | {first['distinct_answers']:.2f} | {first['reward_std']:.3f} | "
            f"{_percent(first['signal_share'])} | {last['latent_entropy']:.3f} | {last['effective_support']:.2f} | "
            f"{_percent(last['singleton_rate'])} | {one['cpu_seconds']:.0f} |"
        )
    lines += ["", "## Learning rate, chosen on validation", "", "| method | rate | validation avg@8 |", "|---|---|---|"]
    lines += [f"| {one['method']} | {one['rate']:g} | {_percent(one['validation'])} |" for one in report["tuning"]]
    return "\n".join(lines) + "\n"


def _preamble(setup: Mapping[str, Any]) -> str:
    return (
        f"Written by `lepo bench learning --preset {setup['preset']}`: {setup['seeds']} seeds, "
        f"{setup['updates']} updates of {setup['problems']} problems per family, 8 rollouts each, on one mix of all "
        f"families; {setup['test']} test problems per family. Differences are paired, in points; their 95% intervals "
        "resample seeds, then problems. `latent` is the method's own inference, `token` is without latent steps."
    )


def _share_row(name: str, cell: Mapping[str, float]) -> str:
    return f"| {name} | {' | '.join(_percent(cell[measure]) for measure in ('greedy', *MEASURES))} |"


def _header() -> str:
    names = ("method", "rate", "distinct answers of 8, first batch", "reward std", "groups with signal")
    later = ("latent entropy, last batch", "effective support", "singleton rate", "CPU s of training")
    return f"| {' | '.join((*names, *later))} |"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _gap(gap: Mapping[str, float]) -> str:
    return f"{100 * gap['mean']:+.1f} [{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}]"
