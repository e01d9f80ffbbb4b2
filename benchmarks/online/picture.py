"""Accuracy against the number of grades, one line per condition, as a picture."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS: Final = ("#7f7f7f", "#1f77b4", "#17becf", "#bcbd22", "#d62728", "#ff7f0e", "#9467bd", "#8c564b", "#2ca02c")


def draw(path: Path, trials: Sequence[dict[str, Any]]) -> None:
    """Draw the trials; error bars are Wilson's 95% intervals of one exam."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    several = len({trial["seed"] for trial in trials}) > 1
    for colour, trial in zip(cycle(COLOURS), trials, strict=False):
        points = trial["points"]
        grades, accuracy = [p["grades"] for p in points], [p["accuracy"] for p in points]
        bars = [[p["accuracy"] - p["low"] for p in points], [p["high"] - p["accuracy"] for p in points]]
        axes.errorbar(
            grades, accuracy, bars, color=colour, marker="o", ms=4, lw=1.6, capsize=2, elinewidth=0.7,
            label=f"{trial['condition']['name']}, {trial['seed']}" if several else trial["condition"]["name"],
        )  # fmt: skip
    axes.set(xlabel="grades posted, one per answer", ylabel="exam accuracy over HTTP", ylim=(0, 1.02))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False, ncols=2)
    axes.set_title("Learning from live traffic, without groups", loc="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
