"""What the report says in words, by its intervals alone: no sentence here knows how the bench came out.

Leaves out the figures (`report`) and the tables (`page`).
"""

from collections.abc import Mapping
from typing import Any

from benchmarks.learning.real.report import BASELINE, MEASURES

Gap = Mapping[str, float]


def verdict(report: Mapping[str, Any]) -> str:
    """Say whether latents pay: whether our best method learns as quickly as GRPO, and more."""
    if "best" not in report:
        return "**Whether latents pay is not known yet**: cells of GRPO or of our methods are missing on some family."
    best = report["best"]
    cell = report["methods"][best]["mean"]
    area = cell["area minus grpo"]
    gains = {measure: cell[f"gain in {measure} minus grpo"] for measure in MEASURES}
    quick = area["high"] >= 0
    if quick and any(gap["low"] > 0 for gap in gains.values()):
        said = "**Latents pay here.**"
    elif not quick or all(gap["high"] < 0 for gap in gains.values()):
        said = "**Latents do not pay here.**"
    else:
        said = "**That latents pay is not shown here.**"
    told = ", ".join(f"{points(gap)} in {measure}" for measure, gap in gains.items())
    seeds = ", ".join(map(str, cell["paired seeds"]))
    return (
        f"{said} Of our methods `{best}` has the larger area under its learning curve, so that no exam chose it. On "
        f"the mean of {' and '.join(report['families'])} (seeds {seeds}) that area differs from GRPO's by "
        f"{points(area)} points, and what it learned (after minus before, each by its own inference) from what GRPO "
        f"learned by {told}."
    )


def conclusions(report: Mapping[str, Any]) -> list[str]:
    """Say of every method where it differs from GRPO."""
    said = []
    for name, cells in report["methods"].items():
        if name == BASELINE:
            continue
        for figure in ("area", *(f"gain in {measure}" for measure in MEASURES)):
            gaps = {
                family: cell[f"{figure} minus grpo"]
                for family, cell in cells.items()
                if cell and f"{figure} minus grpo" in cell
            }
            said.append(f"{name}, {figure}: {differs(gaps)}.")
    return said


def differs(gaps: Mapping[str, Gap]) -> str:
    """Name the families on which intervals leave 0 out."""
    if not gaps:
        return "nothing to compare yet"
    above = [family for family, gap in gaps.items() if gap["low"] > 0]
    below = [family for family, gap in gaps.items() if gap["high"] < 0]
    parts = [f"above GRPO on {', '.join(above)}"] if above else []
    parts += [f"below GRPO on {', '.join(below)}"] if below else []
    return "; ".join(parts) or f"no difference to GRPO shown on {', '.join(gaps)}"


def points(gap: Gap) -> str:
    """Write a difference with its interval, in points."""
    return f"{100 * gap['mean']:+.1f} [{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}]"
