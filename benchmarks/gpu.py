"""`python -m benchmarks.gpu`: one machine's limits, and how near the engine, the swap and the update come to them.

Made for a CUDA machine, in bfloat16 on the shapes of Qwen2.5-0.5B and 3B; `scripts/gpu_check.sh` runs it. On a CPU it
runs the same code on a small shape. Needs no network, no database and no other process.

Roofline of a decode step: the bytes it must read (all weights once, and each row's keys and values) over the measured
copy bandwidth. Leaves out peers (`benchmarks.engine`) and HTTP.
"""

import gc
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch

from benchmarks.driving import StepClock, engine_for, steps_per_second
from benchmarks.load import equal_asks, requests
from benchmarks.report import Bound, finish, judged
from benchmarks.shapes import SHAPES, Shape, build_policy
from benchmarks.speed import Steps, latent_over_token
from benchmarks.timing import Series, machine, percentiles, seconds, significant, tell
from training.checkpoint import publish
from training.policy import Policy, placed
from training.rollout import Rollout
from training.update import Learner, UpdateConfig

BOUNDS = (
    Bound("0.5b.decode.1.tokens_per_second", 300, "at least"),
    Bound("3b.decode.64.fraction_of_roofline", 0.5, "at least"),
    Bound("0.5b.latent_step_over_token_step", 1.05, "at most"),
    Bound("3b.latent_step_over_token_step", 1.05, "at most"),
    Bound("0.5b.swap.pause_ms_max", 10, "at most"),
    Bound("3b.swap.pause_ms_max", 10, "at most"),
)


@dataclass(frozen=True, slots=True)
class Work:
    """How much is done."""

    copied_bytes: int  # of the buffer that measures bandwidth
    batches: tuple[int, ...]  # rows decoded together
    prompt: int  # tokens
    steps: int  # decode steps per measurement
    repeats: int
    swaps: int  # checkpoints published and taken into service
    rollouts: int  # of the update
    answer: int  # tokens of each of them


FULL = Work(2**30, (1, 8, 64), 128, 256, 3, 3, 32, 256)
BRIEF = Work(2**24, (1, 4), 16, 12, 2, 2, 4, 8)


@click.command()
@click.option("--shape", "shapes", type=click.Choice([*SHAPES]), multiple=True, default=("0.5b", "3b"))
@click.option("--device", default="cuda", help="cpu, cuda or cuda:N.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="bfloat16")
@click.option("--brief", is_flag=True, help="Seconds of work: shows that it runs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the JSON here too.")
def command(shapes: tuple[str, ...], device: str, dtype: str, brief: bool, as_json: bool, out: Path | None) -> None:
    """Measure bandwidth, decoding, the latent step, the swap and the update on one device."""
    report = measure(shapes, BRIEF if brief else FULL, device=placed(device), dtype=getattr(torch, dtype))
    finish(report, as_json=as_json, out=out)


def measure(shapes: Sequence[str], work: Work, *, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Run everything on every shape.

    Returns:
        the report, by shape.

    """
    facts = machine()
    bandwidth = copy_bandwidth(device, work.copied_bytes)
    tell(f"copy bandwidth {bandwidth / 1e9:.0f} GB/s")
    report: dict[str, Any] = {"benchmark": "gpu", "copy_bandwidth_gb_s": significant(bandwidth / 1e9)}
    for name in shapes:
        report[name] = measure_shape(SHAPES[name], work, bandwidth, device, dtype)
    settings = {"shapes": list(shapes), "device": device, "dtype": str(dtype).removeprefix("torch."), **asdict(work)}
    return {**report, "bounds": judged(report, BOUNDS), "settings": settings, "machine": facts}


def measure_shape(shape: Shape, work: Work, bandwidth: float, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Measure decoding, the latent step, the swap and the update of one shape."""
    tell(f"{shape.name}: making the model")
    policy = build_policy(shape, seed=0, version=0, dtype=dtype, device=device)
    report: dict[str, Any] = {"weight_bytes": weight_bytes(policy), "decode": {}}
    for batch in work.batches:
        report["decode"][str(batch)] = decoding(policy, shape, work, batch, bandwidth)
        tell(f"{shape.name}: batch {batch}: {report['decode'][str(batch)]}")
        free()
    steps = Steps(min(8, max(work.batches)), 8, work.steps, work.repeats)
    latent = latent_over_token(
        policy, shape, steps, torch.get_num_threads(), lambda line: tell(f"{shape.name}: latent step: {line}")
    )
    report["latent_step_over_token_step"] = latent["ratio"]
    report["latent_step"] = latent
    free()
    report["swap"] = swapping(policy, shape, work)
    tell(f"{shape.name}: swap: {report['swap']}")
    free()
    report["update"] = updating(policy, shape, work)
    tell(f"{shape.name}: update: {report['update']}")
    del policy
    free()
    return report


def copy_bandwidth(device: str, size: int) -> float:
    """Bytes per second of a device-to-device copy, reads and writes both counted: the best of ten."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        synchronize(device)

    copy()
    return 2 * size / min(seconds(copy) for _ in range(10))


def weight_bytes(policy: Policy) -> int:
    """Bytes a decode step must read of the weights; a tied embedding counts once, as the head."""
    return sum(weight.numel() * weight.element_size() for weight in policy.model.parameters())


def decoding(policy: Policy, shape: Shape, work: Work, batch: int, bandwidth: float) -> dict[str, float]:
    """Tokens per second of a started engine at a batch, beside what the bandwidth allows."""
    engine = engine_for(policy, batch, work.prompt + work.steps)
    engine.start()
    rates = []
    for repeat in range(-1, work.repeats):  # the first makes the graphs and is not counted
        asks = equal_asks(shape, batch, work.prompt, work.steps, seed=repeat + 1)
        rate = steps_per_second(engine, requests(asks, repeat + 1))
        if repeat >= 0:
            rates.append(rate)
    engine.close(0)
    rate = Series(tuple(rates)).median
    context = work.prompt + work.steps / 2
    cached = batch * context * shape.kv_bytes_per_token(policy.dtype.itemsize)
    limit = bandwidth / (weight_bytes(policy) + cached)
    return {
        "tokens_per_second": significant(rate * batch),
        "ms_per_step": significant(1000 / rate),
        "roofline_tokens_per_second": significant(limit * batch),
        "fraction_of_roofline": significant(rate / limit),
    }


def swapping(policy: Policy, shape: Shape, work: Work) -> dict[str, Any]:
    """Take new checkpoints into service while rows stream; what the step loop felt of it."""
    batch = min(8, max(work.batches))
    engine = engine_for(policy, 2 * batch, work.prompt + work.steps)
    engine.start()
    pauses, staged, gaps, usual = [], [], [], []
    with TemporaryDirectory(prefix="lepo-gpu-") as directory:
        for version in range(1, work.swaps + 1):
            made = publish(
                policy,
                Path(directory),
                version=version,
                parent_version=version - 1,
                training={},
                created=datetime.now(UTC).isoformat(),
            )
            clock = StepClock(batch)
            asks = equal_asks(shape, batch, work.prompt, work.steps, seed=version)
            for index, request in enumerate(requests(asks, version)):
                engine.submit(request, clock.sink(index))
            began = time.perf_counter()
            report = engine.swap(made, version).result()
            ended = time.perf_counter()
            usual.append(1 / clock.steps_per_second())
            gaps.append(clock.longest_gap(began, ended))
            pauses.append(report.pause_s)
            staged.append(report.staged_s)
    engine.close(0)
    return {
        "swaps": work.swaps,
        "pause_ms_max": significant(1000 * max(pauses)),
        "staged_s": percentiles(staged),
        "step_ms": significant(1000 * Series(tuple(usual)).median),
        "longest_step_ms_while_swapping": significant(1000 * max(gaps)),
    }


def updating(policy: Policy, shape: Shape, work: Work) -> dict[str, Any]:
    """One update of every weight on rollouts of the engine, half of them good and half bad."""
    rollouts = drawn(policy, shape, work)
    device = str(policy.device)
    policy.model.requires_grad_(requires_grad=True)
    learner = Learner(policy.model, UpdateConfig(probe_rollouts=4, activation_checkpointing=True))
    advantages = [1.0 if index % 2 else -1.0 for index in range(len(rollouts))]
    if policy.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def update() -> None:
        learner.update(rollouts, advantages)
        synchronize(device)

    times = [seconds(update) for _ in range(work.repeats)]
    positions = sum(one.prompt_ids_P.shape[0] + one.latent_length + one.answer_length for one in rollouts)
    peak = torch.cuda.max_memory_allocated() if policy.device.type == "cuda" else 0
    return {
        "seconds": Series(tuple(times)).report(),
        "rollouts": len(rollouts),
        "positions_per_second": significant(positions / Series(tuple(times)).median),
        "peak_device_bytes": peak,
    }


def drawn(policy: Policy, shape: Shape, work: Work) -> list[Rollout]:
    """Rollouts with a few latent steps, drawn by the engine."""
    latents = 4
    engine = engine_for(policy, work.rollouts, work.prompt + latents + work.answer)
    asks = equal_asks(shape, work.rollouts, work.prompt, work.answer, seed=0)
    answers = engine.generate(requests(asks, 0, latents))
    engine.close(0)
    return [choices[0].rollout for choices in answers]


def synchronize(device: str) -> None:
    """Wait for the device."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def free() -> None:
    """Give memory of what is gone back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    command()
