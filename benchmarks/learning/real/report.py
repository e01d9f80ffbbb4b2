"""What the cells that are there add up to: curves, areas under them, learned gains, all paired with GRPO's.

A pair is of one family and one seed: the same problems in the same order, the same noise. Figures over families weigh
them alike. Leaves out running cells (`cells`) and showing (`page`, `picture`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.learning.real.budget import exam_of
from benchmarks.learning.real.cells import Cache, Plan
from benchmarks.learning.statistics import difference
from benchmarks.report import Bound, judged

BASELINE: Final = "grpo"
OURS: Final = ("lepo", "lepo_averaged")
MEASURES: Final = ("avg@8", "pass@8")
BOUNDS: Final = (
    Bound("best_area_high", 0.0, "at least"),  # as quick a learner: the interval is not below 0
    Bound("best_gain_low", 0.0, "at least"),  # above in avg@8 or pass@8: the interval is above 0
)
Results = Mapping[tuple[str, str], Mapping[int, Mapping[str, Any]]]  # by method and family: results by seed
Exams = Mapping[tuple[str, str], Mapping[str, Any]]  # by method and family: the base's exam by the method's inference


def summarised(plan: Plan, cache: Cache, machine: Mapping[str, Any]) -> dict[str, Any]:
    """Make the report of the cells that are there; a family without any is only named among the missing."""
    runs, exams = collected(plan, cache)
    names = [one.name for one in plan.methods if any(runs[one.name, family.name] for family in plan.families)]
    families = [one.name for one in plan.families if any(runs[method.name, one.name] for method in plan.methods)]
    missing = [
        {"method": one.method.name, "family": one.family.name, "seed": one.seed} for one in cache.missing(plan.cells())
    ]
    report: dict[str, Any] = {
        "benchmark": "learning_real",
        "settings": {
            "base": plan.base,
            **asdict(plan.budget),
            "seeds": list(plan.seeds),
            "methods": {one.name: asdict(one) for one in plan.methods},
            "families": {one.name: list(one.sources) for one in plan.families},
            "preset": plan.preset,
        },
        "families": families,
        "cells": len(plan.cells()),
        "missing": missing,
        "methods": {
            name: {family: of_cells(name, family, families, runs, exams) for family in wide_of(families)}
            for name in names
        },
        "curves": {
            name: {family: curve(list(runs[name, family].values())) for family in families if runs[name, family]}
            for name in names
        },
        "machine": dict(machine),
    }
    report |= headline(report)
    return {**report, "bounds": judged(report, BOUNDS)}


def wide_of(families: Sequence[str]) -> list[str]:
    """Give the families, and their mean."""
    return [*families, "mean"]


def shown_of(families: Sequence[str]) -> list[str]:
    """Give the families, and their mean where it is another figure than theirs."""
    return wide_of(families) if len(families) > 1 else list(families)


def collected(plan: Plan, cache: Cache) -> tuple[Results, Exams]:
    """Read the cells that are there."""
    runs: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {
        (method.name, family.name): {} for method in plan.methods for family in plan.families
    }
    exams: dict[tuple[str, str], Mapping[str, Any]] = {}
    for cell in plan.cells():
        if not cell.of_base and (result := cache.result(cell)) is not None:
            runs[cell.method.name, cell.family.name][cell.seed] = result
    for method in plan.methods:
        for family in plan.families:
            result = cache.result(exam_of(plan.base, method, family, plan.budget))
            if result is not None:
                exams[method.name, family.name] = result["test"]
    return runs, exams


def of_cells(name: str, family: str, families: Sequence[str], runs: Results, exams: Exams) -> dict[str, Any] | None:
    """Give the figures of a method on one family, or on the mean of all; None where cells are missing."""
    wide = list(families) if family == "mean" else [family]
    seeds = common(name, wide, runs)
    if not seeds or any((name, one) not in exams for one in wide):
        return None
    found: dict[str, Any] = {"seeds": seeds, "area": mean(areas(name, wide, runs, seeds))}
    for inference in ("own", "token"):
        before_name = name if inference == "own" else BASELINE
        if any((before_name, one) not in exams for one in wide):
            continue
        for measure in MEASURES:
            after = [after_of(name, one, inference, measure, runs, seeds) for one in wide]
            before = [before_of(before_name, one, measure, exams, len(seeds)) for one in wide]
            gain = difference(after, before)
            found[f"{inference} {measure}"] = {"before": mean(before), "after": mean(after), "gain": asdict(gain)}
    found |= against(name, wide, runs, exams)
    return found


def against(name: str, wide: Sequence[str], runs: Results, exams: Exams) -> dict[str, Any]:
    """Compare a method with GRPO on the seeds that both have."""
    seeds = [seed for seed in common(name, wide, runs) if seed in common(BASELINE, wide, runs)]
    if not seeds or any((BASELINE, one) not in exams for one in wide):
        return {}
    paired = difference(areas(name, wide, runs, seeds), areas(BASELINE, wide, runs, seeds))
    found: dict[str, Any] = {"paired seeds": seeds, "area minus grpo": asdict(paired)}
    for measure in MEASURES:
        mine = [gains(name, one, measure, runs, exams, seeds) for one in wide]
        other = [gains(BASELINE, one, measure, runs, exams, seeds) for one in wide]
        found[f"gain in {measure} minus grpo"] = asdict(difference(mine, other))
    return found


def common(name: str, wide: Sequence[str], runs: Results) -> list[int]:
    """Seeds that a method has on all of some families."""
    if any((name, one) not in runs for one in wide):
        return []
    return sorted(set.intersection(*(set(runs[name, one]) for one in wide)))


def areas(name: str, wide: Sequence[str], runs: Results, seeds: Sequence[int]) -> list[Tensor]:
    """Give shares of right answers to the training problems in their order, [seeds, problems], by family.

    Their mean is the area under the accuracy curve over answers, as a share of what is possible.
    """
    return [
        torch.tensor(
            [[one for update in runs[name, family][seed]["updates"] for one in update["solved"]] for seed in seeds],
            dtype=torch.float64,
        )
        for family in wide
    ]


def gains(name: str, family: str, measure: str, runs: Results, exams: Exams, seeds: Sequence[int]) -> Tensor:
    """After minus before by the method's own inference, [seeds, problems]."""
    after = after_of(name, family, "own", measure, runs, seeds)
    return after - before_of(name, family, measure, exams, len(seeds))


def after_of(name: str, family: str, inference: str, measure: str, runs: Results, seeds: Sequence[int]) -> Tensor:
    """Figures of the exam after learning, [seeds, problems]."""
    return torch.stack([measured(runs[name, family][seed]["test"][inference], measure) for seed in seeds])


def before_of(name: str, family: str, measure: str, exams: Exams, count: int) -> Tensor:
    """Figures of the base's exam, the same for every seed, [seeds, problems]."""
    return measured(exams[name, family]["own"], measure).expand(count, -1)


def measured(right: Sequence[int], measure: str) -> Tensor:
    """Turn counts of right answers of eight into avg@8 or pass@8 of each problem, float64."""
    right_N = torch.tensor(right, dtype=torch.float64)
    return right_N / 8 if measure == "avg@8" else (right_N > 0).double()


def mean(tables: Sequence[Tensor]) -> float:
    """Mean over families of the means."""
    return float(torch.stack([table.double().mean() for table in tables]).mean())


def curve(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Mean over seeds of what each update was made of; `answers` and `seconds` count what was spent before it."""
    points = []
    answers, seconds = 0.0, 0.0
    for updates in zip(*(run["updates"] for run in runs), strict=True):
        spent = [one["cpu_seconds"] for one in updates]
        names = [name for name, value in updates[0].items() if isinstance(value, int | float)]
        point = {name: average([one[name] for one in updates if name in one]) for name in names}
        point |= {f"{part}_seconds": average([one[part] for one in spent]) for part in ("answering", "learning")}
        points.append({**point, "seconds": seconds, "answers": answers, "answered": point["answers"]})
        answers += point["answers"]
        seconds += point["answering_seconds"] + point["learning_seconds"]
    return points


def average(values: Sequence[float]) -> float:
    """Mean of at least one."""
    return sum(values) / len(values)


def headline(report: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what the aims are about: of our methods the one with the larger area, so that no exam chooses."""
    mine = {name: cells["mean"] for name, cells in report["methods"].items() if name in OURS and cells["mean"]}
    compared = {name: cell for name, cell in mine.items() if "area minus grpo" in cell}
    if not compared:
        return {}
    best = max(compared, key=lambda name: float(compared[name]["area"]))
    cell = compared[best]
    return {
        "best": best,
        "best_area_low": cell["area minus grpo"]["low"],
        "best_area_high": cell["area minus grpo"]["high"],
        "best_gain_low": max(cell[f"gain in {measure} minus grpo"]["low"] for measure in MEASURES),
    }
