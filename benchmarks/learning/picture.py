"""Validation accuracy over rollouts, and differences to GRPO on test with their intervals, as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS: Final = (
    *("#7f7f7f", "#17becf", "#bcbd22", "#9467bd", "#2ca02c", "#8c564b", "#e377c2", "#1f77b4", "#ff7f0e", "#d62728"),
)


def draw(path: Path, report: Mapping[str, Any]) -> None:
    """Draw the report."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    FigureCanvasAgg(figure)
    curves, gaps = figure.subplots(1, 2, width_ratios=(1, 1.1))
    methods = dict(zip(report["methods"], COLOURS, strict=False))
    for name, colour in methods.items():
        points = report["methods"][name]["curve"]
        rollouts = [point["rollouts"] for point in points]
        curves.plot(rollouts, [point["average"] for point in points], color=colour, label=name, lw=1.6)
    curves.set(xlabel="rollouts", ylabel="validation avg@8, own inference, mean of seeds")
    curves.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    curves.grid(alpha=0.25)
    curves.legend(frameon=False, fontsize=8)
    _differences(gaps, report, methods)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _differences(axes: Axes, report: Mapping[str, Any], methods: Mapping[str, str]) -> None:
    """Show each method's avg@8 minus GRPO's, by family."""
    families = list(report["methods"]["grpo"]["test"])
    shown = [name for name in methods if name != "grpo"]
    for number, name in enumerate(shown):
        for row, family in enumerate(families):
            gap = report["methods"][name]["test"][family]["latent"]["avg@8 minus grpo"]
            at = row + (number - (len(shown) - 1) / 2) * 0.12
            axes.plot([100 * gap["low"], 100 * gap["high"]], [at, at], color=methods[name], lw=1.4)
            axes.plot(100 * gap["mean"], at, "o", color=methods[name], ms=4)
    axes.axvline(0, color="black", lw=0.8)
    axes.set_yticks(range(len(families)), families)
    axes.invert_yaxis()
    axes.set(xlabel="test avg@8 minus GRPO's, points, 95% interval")
    axes.grid(alpha=0.25, axis="x")
