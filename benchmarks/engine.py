"""`lepo bench engine`: the engine beside its peers, in one process, on the same modules and prompts.

Peers: transformers' `generate`, transformers' `generate_batch`, and a loop of bare forwards. What makes the comparison
fair is said in `benchmarks.peers`, `benchmarks.load` and `benchmarks.timing`. Leaves out HTTP (`benchmarks.http`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.report import Bound, finish, judged
from benchmarks.shapes import SHAPES

if TYPE_CHECKING:
    from benchmarks.speed import Equal, Ragged, Steps

ORDER = ("tiny", "50m", "0.5b")
BOUNDS = (
    Bound("speedup_vs_generate_b8", 1.8, "at least"),
    Bound("speedup_vs_generate_b32", 2.8, "at least"),
    Bound("speedup_ragged.tiny", 3.0, "at least"),
    Bound("speedup_ragged.50m", 1.8, "at least"),
    Bound("speedup_vs_continuous_batching", 1.5, "at least"),
    Bound("fraction_of_bare_forward.tiny", 0.85, "at least"),
    Bound("fraction_of_bare_forward.50m", 0.95, "at least"),
    Bound("fraction_of_bare_forward.0.5b", 0.95, "at least"),
    Bound("latent_step_over_token_step_by_shape.0.5b", 1.05, "at most"),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What one shape is asked; None leaves a question out."""

    equal: "Equal | None"
    ragged: "Ragged | None"
    continuous: bool  # whether the ragged load goes to `generate_batch` too
    steps: "Steps"  # against bare forwards
    latents: "Steps"  # latent against token steps


@click.command()
@click.option("--shape", type=click.Choice([*SHAPES, "all"]), default="all", help="A size, or the three of the report.")
@click.option("--threads", type=click.IntRange(min=1), default=2, help="torch threads.")
@click.option("--quick", is_flag=True, help="Short loads, few repeats: a look, not a result.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--device", default="cpu", help="cpu, cuda or cuda:N.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the JSON here too.")
def command(shape: str, threads: int, quick: bool, as_json: bool, device: str, dtype: str, out: Path | None) -> None:
    """Measure the engine beside transformers' generate and generate_batch, and beside bare forwards."""
    names = ORDER if shape == "all" else (shape,)
    finish(measure(names, threads=threads, quick=quick, device=device, dtype=dtype), as_json=as_json, out=out)


def measure(names: Sequence[str], *, threads: int, quick: bool, device: str, dtype: str) -> dict[str, Any]:
    """Run every question on every shape.

    Returns:
        the report: the asked keys, `bounds`, `raw` with medians and spreads, `settings` and `machine`.

    """
    import torch

    from benchmarks.cores import apart
    from benchmarks.timing import machine, tell
    from training.models.policy import placed

    torch.set_num_threads(1)  # what is timed has a thread of its own
    facts = apart(threads, machine)
    where = placed(device)
    raw: dict[str, dict[str, Any]] = {}
    for name in names:
        tell(f"{name}: making the model")
        raw[name] = _measure_shape(name, plan_for(name, quick=quick), threads, where, getattr(torch, dtype))
    settings = {"threads": threads, "quick": quick, "device": where, "dtype": dtype, "shapes": list(names)}
    report: dict[str, Any] = {"benchmark": "engine", **keys(raw)}
    return {**report, "bounds": judged(report, BOUNDS), "settings": settings, "machine": facts, "raw": raw}


def plan_for(name: str, *, quick: bool) -> Plan:
    """Choose the loads for a shape: all questions for tiny, fewer for what takes longer."""
    from benchmarks.speed import Equal, Ragged, Steps

    if name == "micro":
        ragged = Ragged(6, 2, (4, 24), (4, 12), 2)
        return Plan(Equal(8, 8, 2), ragged, continuous=True, steps=Steps(4, 8, 16, 2), latents=Steps(4, 8, 16, 2))
    repeats = {"tiny": 7, "50m": 5}.get(name, 5) if not quick else 2
    count, longest = (64, 256) if not quick else (24, 96)
    ragged = Ragged(count, 16, (8, longest), (16, longest), repeats if name == "tiny" else min(repeats, 3))
    batch = 16 if name in {"tiny", "50m"} else 8
    length = {"tiny": 192, "50m": 96}.get(name, 32) // (4 if quick else 1)
    steps = Steps(batch, 32, length, 3 * repeats)  # a host's pace wavers by a tenth: many short pairs
    latents = Steps(8, 8, length, repeats)
    equal = Equal(32, 128 if not quick else 32, repeats) if name == "tiny" else None
    return Plan(equal, ragged if name in {"tiny", "50m"} else None, name == "tiny", steps, latents)


def keys(raw: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Pick the figures asked for out of the sections. The latent step's is that of the largest vocabulary measured."""
    found: dict[str, Any] = {}
    for sections in raw.values():
        for batch in (8, 32):
            if f"generate_b{batch}" in sections:
                found.setdefault(f"speedup_vs_generate_b{batch}", sections[f"generate_b{batch}"]["ratio"])
        if "continuous_batching" in sections:
            found.setdefault("speedup_vs_continuous_batching", sections["continuous_batching"]["ratio"])
    by_shape = {
        "speedup_ragged": "ragged",
        "fraction_of_bare_forward": "bare_forward",
        "latent_step_over_token_step_by_shape": "latent_step",
    }
    for key, section in by_shape.items():
        found[key] = {name: sections[section]["ratio"] for name, sections in raw.items() if section in sections}
    latent = found["latent_step_over_token_step_by_shape"]
    found["latent_step_over_token_step"] = latent[max(latent, key=lambda name: SHAPES[name].vocabulary)]
    return {key: value for key, value in found.items() if value != {}}


def _measure_shape(name: str, plan: Plan, threads: int, device: str, dtype: Any) -> dict[str, Any]:
    """All questions to one shape."""
    from benchmarks import speed
    from benchmarks.shapes import build_policy
    from benchmarks.timing import tell

    shape = SHAPES[name]
    policy = build_policy(shape, seed=0, version=0, dtype=dtype, device=device)

    def teller(section: str) -> speed.Tell:
        return lambda line: tell(f"{name}: {section}: {line}")

    sections: dict[str, Any] = {}
    if plan.equal is not None:
        for batch in (8, 32):
            key = f"generate_b{batch}"
            sections[key] = speed.against_generate(policy, shape, plan.equal, batch, threads, teller(key))
    if plan.ragged is not None:
        peers = speed.ragged(policy, shape, plan.ragged, threads, teller("ragged"), continuous=plan.continuous)
        sections["ragged"] = peers.pop("generate")
        sections.update(peers)
    sections["bare_forward"] = speed.over_bare_forward(policy, shape, plan.steps, threads, teller("bare forward"))
    sections["latent_step"] = speed.latent_over_token(policy, shape, plan.latents, threads, teller("latent step"))
    return sections


if __name__ == "__main__":
    command()
