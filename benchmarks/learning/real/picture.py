"""Learning curves of a real model, by answers and by seconds, and what was learned beside GRPO, as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.learning.real.report import BASELINE, MEASURES, shown_of

COLOURS: Final = ("#7f7f7f", "#17becf", "#9467bd", "#1f77b4", "#ff7f0e", "#d62728", "#2ca02c", "#8c564b")


def draw(path: Path, report: Mapping[str, Any]) -> None:
    """Draw the report."""
    figure = Figure(figsize=(15, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    by_answers, by_seconds, gaps = figure.subplots(1, 3, width_ratios=(1, 1, 1.2))
    colours = dict(zip(report["settings"]["methods"], COLOURS, strict=False))
    for axes, spent, label in ((by_answers, "answers", "answers"), (by_seconds, "seconds", "seconds of a core")):
        curves(axes, report, colours, spent)
        axes.set(xlabel=f"{label} learned from, per family", ylabel="right answers of the next batch")
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        axes.grid(alpha=0.25)
    if by_answers.lines:
        by_answers.legend(frameon=False, fontsize=8)
    differences(gaps, report, colours)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def curves(axes: Axes, report: Mapping[str, Any], colours: Mapping[str, str], spent: str) -> None:
    """Draw the mean over seeds and families of every method that has all families."""
    families = report["families"]
    for name, found in report["curves"].items():
        if set(found) != set(families):
            continue
        points = list(zip(*(found[family] for family in families), strict=True))
        across = [[sum(one[of] for one in point) / len(point) for point in points] for of in (spent, "reward")]
        axes.plot(*across, color=colours[name], label=name, lw=1.6, marker=".")


def differences(axes: Axes, report: Mapping[str, Any], colours: Mapping[str, str]) -> None:
    """Show each method's learned gain minus GRPO's, with its interval."""
    shown = [name for name in report["methods"] if name != BASELINE]
    rows = [(measure, family) for measure in MEASURES for family in shown_of(report["families"])]
    for number, name in enumerate(shown):
        for at, (measure, family) in enumerate(rows):
            gap = (report["methods"][name].get(family) or {}).get(f"gain in {measure} minus grpo")
            if gap is None:
                continue
            height = at + (number - (len(shown) - 1) / 2) * 0.12
            axes.plot([100 * gap["low"], 100 * gap["high"]], [height, height], color=colours[name], lw=1.4)
            axes.plot(100 * gap["mean"], height, "o", color=colours[name], ms=4)
    axes.axvline(0, color="black", lw=0.8)
    axes.set_yticks(range(len(rows)), [f"{family}\n{measure}" for measure, family in rows])
    axes.invert_yaxis()
    axes.set(xlabel="learned gain minus GRPO's, points, 95% interval")
    axes.grid(alpha=0.25, axis="x")
