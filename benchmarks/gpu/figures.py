"""How fast: decoding against the roofline, the latent step, first tokens under load, swaps under load, updates.

Roofline of a decode step: the bytes it must read (all weights once, and each row's keys and values) over the measured
copy bandwidth.
"""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from app.engine import stage
from app.engine.config import Packing
from benchmarks.driving import steps_per_second
from benchmarks.gpu.device import copy_bandwidth
from benchmarks.gpu.runner import Note
from benchmarks.gpu.setup import Setup, engine_of, policy_of
from benchmarks.gpu.streams import Streams
from benchmarks.load import equal_asks, requests
from benchmarks.shapes import SHAPES, Shape
from benchmarks.speed import Steps, latent_over_token
from benchmarks.timing import Series, percentiles, seconds, significant
from training.models.checkpoint import publish, verify
from training.models.policy import Policy, fingerprint
from training.rollout import Rollout
from training.update import Learner, UpdateConfig


def weight_bytes(policy: Policy) -> int:
    """Bytes a decode step must read of the weights; a tied embedding counts once, as the head."""
    return sum(weight.numel() * weight.element_size() for weight in policy.model.parameters())


def decode(note: Note, setup: Setup, name: str) -> None:
    """Tokens per second of a started engine at each batch; by the stock forward too, for comparison."""
    shape = SHAPES[name]
    bandwidth = copy_bandwidth(setup)
    setup.free()
    policy = policy_of(shape, setup)
    note.put(name, "weight_bytes", value=weight_bytes(policy))
    note.tell("model made")
    plan: list[tuple[str, int, Packing]] = [("decode", batch, "auto") for batch in setup.work.batches]
    plan += [("decode_by_stock_forward", setup.work.batches[-1], "off")]
    for what, batch, packing in plan:
        found = _decoding(policy, shape, setup, batch, packing, bandwidth)
        note.put(name, what, str(batch), value=found)
        note.tell(f"{what}, {batch} rows: {found}")


def _decoding(
    policy: Policy, shape: Shape, setup: Setup, batch: int, packing: Packing, bandwidth: float
) -> dict[str, float]:
    work = setup.work
    setup.free()
    engine = engine_of(policy, batch, work.prompt + work.steps, packing)
    engine.start()

    def rate(seed: int) -> float:
        return steps_per_second(engine, requests(equal_asks(shape, batch, work.prompt, work.steps, seed), seed))

    warm_s = seconds(lambda: rate(0))  # makes the graphs
    median = Series(tuple(rate(1 + repeat) for repeat in range(work.repeats))).median
    engine.close(0)
    cached = batch * (work.prompt + work.steps / 2) * shape.kv_bytes_per_token(policy.dtype.itemsize)
    limit = bandwidth / (weight_bytes(policy) + cached)
    return {
        "tokens_per_second": significant(median * batch),
        "ms_per_step": significant(1000 / median),
        "roofline_tokens_per_second": significant(limit * batch),
        "fraction_of_roofline": significant(median / limit),
        "first_run_s": significant(warm_s),
        "peak_gb": setup.peak_gb(),
    }


def latent(note: Note, setup: Setup, name: str) -> None:
    """Divide what a latent step takes by what a token step takes."""
    work, policy = setup.work, policy_of(SHAPES[name], setup)
    steps = Steps(min(8, max(work.batches)), 8, work.steps, work.repeats)
    found = latent_over_token(policy, SHAPES[name], steps, torch.get_num_threads(), note.tell)
    note.put(name, "latent_step_over_token_step", value=found["ratio"])
    note.put(name, "latent_step", value=found)


def first_tokens(note: Note, setup: Setup, name: str) -> None:
    """Wait for the first token while other answers run: half of the slots taken, and all of them."""
    work, shape, slots = setup.work, SHAPES[name], max(setup.work.batches)
    policy = policy_of(shape, setup)
    engine = engine_of(policy, slots, work.prompt + work.steps)
    engine.start()
    for taken in (slots // 2, slots):
        with Streams(engine, shape, taken, work.prompt, work.steps // 2) as streams:
            time.sleep(2 * work.load_s)  # graphs are made, answers fall out of step
            began = time.perf_counter()
            time.sleep(work.load_s)
            ended = time.perf_counter()
        waits = streams.first_tokens_s(began)
        found: dict[str, Any] = {
            "streams": taken,
            "answers": len(waits),
            "first_token_s": percentiles(waits) if waits else {},
            "tokens_per_second": significant(streams.tokens(began, ended) / (ended - began)),
            "longest_gap_ms": significant(1000 * streams.longest_gap_s(began, ended)),
        }
        note.put(name, "first_tokens", str(taken), value=found)
        note.tell(str(found))
    engine.close(0)


def swapping(note: Note, setup: Setup, name: str, swaps: int) -> None:
    """Publish, and take into service under a load that lasts; what the load felt of it, and where the time goes."""
    work, shape, slots = setup.work, SHAPES[name], max(4, max(setup.work.batches) // 2)
    setup.free()
    policy = policy_of(shape, setup)
    engine = engine_of(policy, slots, work.prompt + work.steps)
    engine.start()
    with (
        TemporaryDirectory(dir=setup.scratch, prefix="lepo-gpu-") as directory,
        Streams(engine, shape, slots // 2, work.prompt, work.steps // 2) as streams,
    ):
        time.sleep(work.load_s)
        began = time.perf_counter()
        time.sleep(work.load_s / 2)
        usual = streams.longest_gap_s(began, time.perf_counter())
        note.put(name, "swap", "usual_longest_gap_ms", value=significant(1000 * usual))
        pauses, waits = [], []
        for version in range(1, swaps + 1):
            began = time.perf_counter()
            made = _published(policy, Path(directory), version)
            asked = time.perf_counter()
            note.tell(f"version {version} published in {asked - began:.1f} s")
            report = engine.swap(made, version).result()
            served = time.perf_counter()
            time.sleep(work.load_s / 2)
            found = {
                "publish_s": significant(asked - began),
                "asked_to_served_s": significant(served - asked),
                "staged_s": significant(report.staged_s),
                "pause_ms": significant(1000 * report.pause_s),
                "longest_gap_ms_while_staging": significant(1000 * streams.longest_gap_s(asked, served)),
                "longest_gap_ms_after": significant(1000 * streams.longest_gap_s(served, time.perf_counter())),
                "peak_gb": setup.peak_gb(),
            }
            note.put(name, "swap", str(version), value=found)
            note.tell(f"swap {version}: {found}")
            pauses.append(found["pause_ms"])
            waits.append(found["publish_s"] + found["asked_to_served_s"])
            note.put(name, "swap", "pause_ms_max", value=max(pauses))
            note.put(name, "swap", "publish_to_served_s_max", value=max(waits))
        note.put(name, "swap", "stages_s", value=_stages(policy, made, swaps))
    engine.close(0)


def _stages(policy: Policy, directory: Path, version: int) -> dict[str, float]:
    """Seconds of each thing that staging does, one after another, with the load still on; the weights stay the same."""
    whole: list[Any] = []
    return {
        "verify": significant(seconds(lambda: verify(directory))),
        "read": significant(seconds(lambda: whole.append(stage.read(directory, version, policy.model)))),
        "fingerprint_of_the_live_weights": significant(seconds(lambda: fingerprint(policy.model))),
        "load": significant(seconds(lambda: stage.load(policy.model, whole[0]))),
    }


def _published(policy: Policy, directory: Path, version: int) -> Path:
    return publish(policy, directory, version=version, parent_version=version - 1, training={}, created="now")


def updating(note: Note, setup: Setup, name: str, *, rollouts: int, repeats: int) -> None:
    """Update every weight on rollouts of the engine; tokens per second, and the memory at its peak."""
    shape = SHAPES[name]
    policy = policy_of(shape, setup)
    drawn = _drawn(policy, shape, setup, rollouts)
    note.tell(f"{len(drawn)} rollouts drawn")
    positions = sum(one.prompt_ids_P.shape[0] + one.latent_length + one.answer_length for one in drawn)
    tokens = sum(one.latent_length + one.answer_length for one in drawn)
    advantages = [1.0 if index % 2 else -1.0 for index in range(len(drawn))]
    policy.model.requires_grad_(requires_grad=True)
    setup.free()
    config = UpdateConfig(probe_rollouts=4, activation_checkpointing=True, micro_batch_positions=8192)
    learner = Learner(policy.model, config)
    for number in range(repeats):
        began = time.perf_counter()
        try:
            report = learner.update(drawn, advantages)
        except torch.OutOfMemoryError as error:
            note.put(name, "update", str(number), value={"out_of_memory": str(error)[:300], "peak_gb": setup.peak_gb()})
            note.tell(f"update {number}: out of memory")
            return
        setup.synchronize()
        taken = time.perf_counter() - began
        found = {
            "seconds": significant(taken),
            "generated_tokens_per_second": significant(tokens / taken),
            "positions_per_second": significant(positions / taken),
            "peak_gb": setup.peak_gb(),
            "micro_batches": report.micro_batches,
            "loss": report.loss,
            "gradient_norm": report.gradient_norm,
            "sampler_kl": report.objective.sampler_kl,  # the engine's record against the replay, nats
            "kl": report.kl,
        }
        note.put(name, "update", str(number), value=found)
        note.tell(f"update {number}: {found}")


def _drawn(policy: Policy, shape: Shape, setup: Setup, count: int) -> list[Rollout]:
    """Rollouts with a few latent steps, drawn by the engine, which is gone afterwards."""
    latents, work = 4, setup.work
    engine = engine_of(policy, count, work.prompt + latents + work.answer)
    asks = equal_asks(shape, count, work.prompt, work.answer, seed=0)
    answers = engine.generate(requests(asks, 0, latents))
    engine.close(0)
    return [choices[0].rollout for choices in answers]
