"""`lepo bench update`: memory, time and gradients of the learner's way against full logits, in processes of their own.

The two ways take turns on the same model and rollouts. Leaves out the optimizer's step and what the learner does around
it (probe, guards): they are the same for both.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.report import Bound, finish, judged

BOUNDS = (
    Bound("peak_memory_ratio", 0.35, "at most"),
    Bound("speedup", 1.3, "at least"),
    Bound("gradient_error", 1e-4, "at most"),
)
_LIMIT_S = 1800  # seconds one side may take


@click.command()
@click.option("--preset", type=click.Choice(["micro", "quick", "full"]), default="quick", help="Size of the work.")
@click.option("--threads", type=click.IntRange(min=1), default=2, help="torch threads.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--device", default="cpu", help="cpu, cuda or cuda:N.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", help="Of the weights.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the JSON here too.")
def command(preset: str, threads: int, as_json: bool, device: str, dtype: str, out: Path | None) -> None:
    """Measure the loss and its gradient at a vocabulary of 152k, beside a full-logits implementation."""
    finish(measure(preset, threads=threads, device=device, dtype=dtype), as_json=as_json, out=out)


def measure(preset: str, *, threads: int, device: str, dtype: str) -> dict[str, Any]:
    """Let both ways take turns, then ours once more with activation checkpointing.

    Returns:
        the report: the asked keys, `bounds`, `raw` with every run, `settings` and `machine`.

    """
    from dataclasses import asdict

    from benchmarks.timing import Series, machine, ratio, significant, tell
    from benchmarks.update.load import LOADS
    from training.models.policy import placed

    try:
        where = placed(device)
    except ValueError as refused:
        raise click.BadParameter(str(refused), param_hint="--device") from refused
    facts, load = machine(), LOADS[preset]
    options = ["--threads", str(threads), "--device", where, "--dtype", dtype]
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "straightforward": []}
    with tempfile.TemporaryDirectory() as scratch:
        files = {way: Path(scratch) / f"{way}.safetensors" for way in runs}
        for repeat in range(load.repeats):
            for way in list(runs)[:: 1 if repeat % 2 == 0 else -1]:
                runs[way].append(_side(way, preset, [*options, "--gradients", str(files[way])]))
                tell(f"repeat {repeat + 1}/{load.repeats}: {way}: {_said(runs[way][-1])}")
        error = gradient_error(files["ours"], files["straightforward"])
    checkpointed = _side("ours", preset, [*options, "--checkpointing"])
    tell(f"ours with activation checkpointing: {_said(checkpointed)}")
    seconds = {way: Series(tuple(one["seconds"] for one in each)) for way, each in runs.items()}
    memory = {way: Series(tuple(one["peak_bytes"] for one in each)) for way, each in runs.items()}
    speedup = ratio(seconds["straightforward"], seconds["ours"])
    report: dict[str, Any] = {
        "benchmark": "update",
        "peak_memory_ratio": significant(ratio(memory["ours"], memory["straightforward"]).median),
        "speedup": significant(speedup.median),
        "gradient_error": significant(error),
        "loss_error": abs(runs["ours"][0]["loss"] - runs["straightforward"][0]["loss"]),
        "peak_bytes": {way: one.median for way, one in memory.items()},
        "seconds": {way: significant(one.median) for way, one in seconds.items()},
        "with_activation_checkpointing": {
            "peak_memory_ratio": significant(checkpointed["peak_bytes"] / memory["straightforward"].median),
            "speedup": significant(seconds["straightforward"].median / checkpointed["seconds"]),
        },
    }
    settings = {"preset": preset, "threads": threads, "device": where, "dtype": dtype, **asdict(load)}
    raw = {"runs": runs, "checkpointed": checkpointed, "speedup": speedup.report()}
    return {**report, "bounds": judged(report, BOUNDS), "settings": settings, "machine": facts, "raw": raw}


def gradient_error(ours: Path, theirs: Path) -> float:
    """Largest difference of any gradient, as a share of the largest gradient of its parameter.

    Raises:
        ValueError: not the same parameters have gradients.

    """
    from safetensors.torch import load_file

    mine, other = load_file(ours), load_file(theirs)
    if mine.keys() != other.keys():
        raise ValueError(f"gradients of other parameters: {sorted(mine.keys() ^ other.keys())}")
    return max(
        float((mine[name] - other[name]).abs().max() / other[name].abs().max().clamp(min=1e-12)) for name in mine
    )


def _side(way: str, preset: str, options: Sequence[str]) -> dict[str, float]:
    """Run one way in a fresh process."""
    line = [sys.executable, "-m", "benchmarks.update.side", way, preset, *options]
    ran = subprocess.run(line, capture_output=True, text=True, timeout=_LIMIT_S, check=False)  # noqa: S603 - our own module
    if ran.returncode:
        raise click.ClickException(f"{way} failed with exit status {ran.returncode}:\n{ran.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return figures


def _said(run: dict[str, float]) -> str:
    return f"{run['seconds']:.2f} s, {run['peak_bytes'] / 2**20:,.0f} MiB"


if __name__ == "__main__":
    command()
