"""The learning curve as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from app.demo.exam import Mark


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at the running service."""

    seconds: float  # since learning began
    version: int  # policy version served
    grades: int  # grades given so far
    accuracy: float | None  # newest held-out accuracy the gate measured, None before the first


def plot_learning_curve(path: Path, caption: str, readings: Sequence[Reading], before: Mark, after: Mark) -> None:
    """Draw held-out accuracy and the version served over time, with the two exams at the ends."""
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    known = [(r.seconds, r.accuracy) for r in readings if r.accuracy is not None]
    end = readings[-1].seconds if readings else 0.0
    axes.plot(*zip(*known, strict=True), color="#1f77b4", lw=1.8, label="gate: validation prompts, serving policy")
    for seconds, mark, label in ((0.0, before, "exam before"), (end, after, "exam after")):
        low, high = mark.interval
        axes.errorbar(
            [seconds], [mark.accuracy], [[mark.accuracy - low], [high - mark.accuracy]],
            fmt="o", color="#d62728", capsize=4, ms=7, zorder=5,
            label="exam: test prompts over HTTP, 95% interval" if label == "exam before" else None,
        )  # fmt: skip
        axes.annotate(
            f"{mark.accuracy:.0%}", (seconds, mark.accuracy), textcoords="offset points",
            xytext=(10 if seconds == 0.0 else -34, -14), color="#d62728", weight="bold",
        )  # fmt: skip
    edge = max(3.0, end / 50)  # so that the exams' bars are whole
    axes.set(xlabel="seconds of serving and learning", ylabel="held-out accuracy")
    axes.set(ylim=(0, 1.04), xlim=(-edge, end + 2 * edge))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(alpha=0.25)
    versions = axes.twinx()
    versions.step(
        [r.seconds for r in readings], [r.version for r in readings], where="post", color="#7f7f7f", lw=1, alpha=0.8
    )
    versions.set_ylabel("policy version served", color="#7f7f7f")
    versions.set_ylim(bottom=0)
    axes.legend(loc="upper left", frameon=False)
    axes.set_title(caption, loc="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
