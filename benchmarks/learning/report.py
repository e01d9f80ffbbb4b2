"""The bench's report: figures by method and family, paired differences to GRPO, and a conclusion made from them.

Leaves out measuring (`loop`) and showing (`page`, `picture`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from benchmarks.learning.statistics import difference
from benchmarks.report import Bound, judged

TRIES = 8
BASELINE = "grpo"
MEASURES = ("avg@8", "pass@8")
INFERENCES = ("latent", "token")
BOUNDS = (
    Bound("lepo_families_above_grpo", 2, "at least"),
    Bound("lepo_mean_avg8_low", 0.0, "at least"),
    Bound("lepo_mean_pass8_low", 0.0, "at least"),
)
Runs = Sequence[Mapping[str, Any]]


def table(runs: Runs, family: str, inference: str, measure: str) -> Tensor:
    """Figures of one method, [seeds, problems], float64 in [0, 1]."""
    found = [run["test"][family][inference] for run in runs]
    if measure == "greedy":
        return torch.tensor([one["greedy"] for one in found], dtype=torch.float64)
    right_SN = torch.tensor([one["right"] for one in found], dtype=torch.float64)
    return right_SN / TRIES if measure == "avg@8" else (right_SN > 0).double()


def summarised(bases: Runs, trials: Runs, runs: Runs, setup: Mapping[str, Any], machine: Mapping[str, Any]) -> Any:
    """Make the report.

    Args:
        bases: one exam of the base per method, by the method's own inference, before any learning.
        trials: the trials on validation.
        runs: every seed of every method.
        setup: what was asked for.
        machine: where it ran.

    """
    methods = {one["method"]: [run for run in runs if run["method"] == one["method"]] for one in runs}
    families = list(bases[0]["test"])

    def tables(of: Runs, family: str, inference: str, measure: str) -> list[Tensor]:
        return [table(of, name, inference, measure) for name in (families if family == "mean" else [family])]

    def shares(of: Runs, family: str, inference: str) -> dict[str, Any]:
        wanted = ("greedy", *MEASURES)
        return {m: float(torch.stack([t.mean() for t in tables(of, family, inference, m)]).mean()) for m in wanted}

    def compared(of: Runs, family: str, inference: str) -> dict[str, Any]:
        cell = shares(of, family, inference)
        for measure in MEASURES:
            mine, other = tables(of, family, inference, measure), tables(methods[BASELINE], family, "token", measure)
            cell[f"{measure} minus grpo"] = asdict(difference(mine, other))
        return cell

    wide = [*families, "mean"]
    found = {
        name: {
            "test": {family: {at: compared(of, family, at) for at in INFERENCES} for family in wide},
            "curve": [_mean(points) for points in zip(*(run["curve"] for run in of), strict=True)],
            **{when: _mean([run[when] for run in of]) for when in ("first", "last")},
            **_mean([{"cpu_seconds": run["cpu_seconds"], "wall_seconds": run["wall_seconds"]} for run in of]),
            "settings": of[0]["settings"],
            "seeds": [run["seed"] for run in of],
        }
        for name, of in methods.items()
    }
    start = {one["method"]: {family: shares([one], family, "latent") for family in wide} for one in bases}
    tuning = [{**trial["settings"], "validation": trial["curve"][-1]["average"]} for trial in trials]
    report = {"benchmark": "learning", "base": start, "methods": found, "tuning": tuning}
    report |= {"conclusion": conclusion(found, families), **headline(found, families)}
    return {**report, "bounds": judged(report, BOUNDS), "settings": dict(setup), "machine": dict(machine)}


def headline(found: Mapping[str, Any], families: Sequence[str]) -> dict[str, Any]:
    """Pick what the aims are about: the LEPO method that ended best on validation, so that test decides nothing."""
    ours = [name for name in found if name in {"lepo", "lepo_averaged"}]
    if not ours:
        return {}
    name = max(ours, key=lambda one: found[one]["curve"][-1]["average"])
    gaps = {at: found[name]["test"][at]["latent"] for at in (*families, "mean")}
    return {
        "lepo_method": name,
        "lepo_families_above_grpo": sum(gaps[at]["avg@8 minus grpo"]["low"] > 0 for at in families),
        "lepo_mean_avg8_low": gaps["mean"]["avg@8 minus grpo"]["low"],
        "lepo_mean_pass8_low": gaps["mean"]["pass@8 minus grpo"]["low"],
    }


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]} if rows else {}


def conclusion(found: Mapping[str, Any], families: Sequence[str]) -> list[str]:
    """Say for every method whether it differs from GRPO, by intervals alone; each by its own inference."""
    said = []
    for name, result in found.items():
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
