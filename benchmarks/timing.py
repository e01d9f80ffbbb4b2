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
from pathlib import Path
from statistics import median
from typing import Any

_LOOK_S = 0.5  # how long to look for others at work
_IDLE_CORES = 0.15  # busy cores below which the machine counts as idle

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
    gc.collect()
    gc.freeze()  # what is there already is not looked through again
    try:
        for repeat in range(repeats):
            for name in list(runs)[:: 1 if repeat % 2 == 0 else -1]:
                gc.collect()
                values[name].append(runs[name](repeat))
            tell(f"repeat {repeat + 1}/{repeats}: " + ", ".join(f"{name} {values[name][-1]:.3g}" for name in runs))
    finally:
        gc.unfreeze()
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

    busy = busy_cores(_LOOK_S)
    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_average_before": [round(load, 2) for load in os.getloadavg()],
        "busy_cores_before": busy,
        "alone": busy is not None and busy < _IDLE_CORES,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "torch_threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def busy_cores(look_s: float) -> float | None:
    """Cores that others kept busy while this process slept for `look_s` seconds; None where that cannot be told."""
    before = _busy_seconds()
    if before is None:
        return None
    time.sleep(look_s)
    after = _busy_seconds()
    assert after is not None
    return round((after - before) / look_s, 2)


def tell(line: str) -> None:
    """Say how far a long run is, on stderr."""
    print(f"[{time.strftime('%H:%M:%S')}] {line}", file=sys.stderr, flush=True)  # noqa: T201 - progress of a command


def significant(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")


def _busy_seconds() -> float | None:
    """Processor seconds that everything on this machine has used since it started, by Linux' count."""
    counts = Path("/proc/stat")
    if not counts.exists():
        return None
    user, nice, system, _idle, _wait, irq, softirq, *_ = map(int, counts.read_text().split("\n")[0].split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _processor() -> str:
    """Name of the processor as Linux knows it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
