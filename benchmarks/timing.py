"""Fair timing: peers take turns, every repeat is kept, and the machine's other load is on record.

A figure is a median over repeats with its spread. A ratio is the median of the ratios of repeats that stood side by
side (A B A B ...), so that a slow minute of the machine slows both. Leaves out what is timed.
"""

import gc
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Run = Callable[[int], float]  # takes the repeat's number, gives its seconds (or another positive figure)


@dataclass(frozen=True, slots=True)
class Series:
    """One figure, measured several times."""

    values: tuple[float, ...]  # in the order measured, all > 0

    @property
    def median(self) -> float:
        """Middle value."""
        return median(self.values)

    def report(self) -> dict[str, float | list[float]]:
        """Median, extremes and every value, for JSON."""
        rounded = [significant(value) for value in self.values]
        return {"median": significant(self.median), "min": min(rounded), "max": max(rounded), "values": rounded}


def side_by_side(runs: Mapping[str, Run], repeats: int, tell: Callable[[str], None]) -> dict[str, Series]:
    """Let every peer run in turn, `repeats` times; a collection of garbage goes before each run, not into it.

    The order turns round from one repeat to the next, so that no peer always follows the same other one.
    """
    values: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats):
        order = list(runs) if repeat % 2 == 0 else list(reversed(runs))
        for name in order:
            gc.collect()
            values[name].append(runs[name](repeat))
        tell(f"repeat {repeat + 1}/{repeats}: " + ", ".join(f"{name} {values[name][-1]:.3g}" for name in runs))
    return {name: Series(tuple(series)) for name, series in values.items()}


def ratio(numerator: Series, denominator: Series) -> Series:
    """Ratios of the paired repeats."""
    return Series(tuple(a / b for a, b in zip(numerator.values, denominator.values, strict=True)))


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99 and the largest, by the nearest rank from above: never smaller than the true one."""
    ordered = sorted(values)
    assert ordered, "nothing was measured"
    ranks = {f"p{p}": ordered[min(len(ordered) - 1, -(-len(ordered) * p // 100) - 1)] for p in (50, 90, 99)}
    return {name: significant(value) for name, value in (ranks | {"max": ordered[-1]}).items()}


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def machine() -> dict[str, Any]:
    """Where this was measured, and what else the machine had to do just before."""
    import torch
    import transformers

    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_average_before": list(os.getloadavg()),
        "alone": os.getloadavg()[0] < 0.5,  # nobody else computed during the last minute
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "torch_threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def tell(line: str) -> None:
    """Say how far a long run is, on stderr."""
    print(f"[{time.strftime('%H:%M:%S')}] {line}", file=sys.stderr, flush=True)  # noqa: T201 - progress of a command


def significant(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")


def _processor() -> str:
    """Name of the processor as Linux knows it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:  # noqa: PTH123 - a device, not a file
            names = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    except FileNotFoundError:
        names = []
    return names[0] if names else platform.processor()
