"""Where the time of a decode step goes: the host, the forward, the draw, and the kernels of each.

A batch is brought to a steady state in an engine without a thread. Then a whole turn is timed by the host's clock, the
graph alone by the device's, forward and draw as graphs of their own, and torch's profiler counts kernels.

Axes: B rows, V vocabulary.
"""

import time
from collections import Counter
from functools import partial
from statistics import median
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from app.engine.config import Packing
from app.engine.engine import Engine
from app.engine.graphs import Bucket
from app.engine.lane import Lane
from benchmarks.gpu.device import graphed
from benchmarks.gpu.runner import Note
from benchmarks.gpu.setup import Setup, engine_of, milliseconds, policy_of
from benchmarks.load import equal_asks, requests
from benchmarks.shapes import SHAPES
from benchmarks.timing import significant
from training.draw import averaged_weights, draw
from training.latent import mix

_TURNS = 30  # timed by the host's clock
_PROFILED = 4  # steps under the profiler
_TOP = 16  # kernels named


def check(note: Note, setup: Setup, name: str) -> None:
    """Both ends of the batch by the quick forward, and one row by the stock one."""
    batches = setup.work.batches
    policy = policy_of(SHAPES[name], setup)
    cases: list[tuple[int, Packing]] = [(batches[0], "auto"), (batches[-1], "auto"), (batches[0], "off")]
    for batch, packing in cases:
        way = "quick" if packing == "auto" else "stock"

        def judge(batch: int = batch, packing: Packing = packing, way: str = way) -> tuple[bool, dict[str, Any]]:
            found = _split(policy, setup, name, batch, packing)
            note.put(name, "split", f"{way}, {batch} rows", value=found)
            return True, {key: value for key, value in found.items() if not isinstance(value, dict)}

        note.check(f"{way}, {batch} rows", judge)


def _split(policy: Any, setup: Setup, name: str, batch: int, packing: Packing) -> dict[str, Any]:
    work, shape = setup.work, SHAPES[name]
    setup.free()
    longest = work.prompt + max(work.steps, 8 * _TURNS)
    engine = engine_of(policy, batch, longest, packing)
    asks = equal_asks(shape, batch, work.prompt, longest - work.prompt - 4, seed=1)
    for request in requests(asks, 1, latents=2):
        engine.submit(request, lambda _events: None)
    lane = engine._lanes.serving
    while len(lane.running) < batch or lane.prefill.busy or lane._plan is None or lane._plan.latents:
        engine._turn()
    for _ in range(3):
        engine._turn()
    found: dict[str, Any] = {"turn_ms": _turn_ms(engine)}
    bucket = Bucket(batch, lane._lengths.bucket(lane._plan.needed + 1), lane._plan.width, 0, 0)
    with torch.inference_mode():
        if setup.cuda:
            found["graph_ms"] = significant(milliseconds(setup, partial(_replay, lane, bucket), 10))
            found["host_ms"] = significant(found["turn_ms"] - found["graph_ms"])
        found |= _device_times(setup, lane, bucket)
        return found | _profiled(setup, lane, bucket, shape.layers)


def _replay(lane: Lane, bucket: Bucket) -> None:
    assert lane._graphs is not None
    if lane._graphs.run(bucket) is None:
        raise RuntimeError("no graph was captured: see the warning in the log")


def _turn_ms(engine: Engine) -> float:
    times = []
    for _ in range(_TURNS):
        began = time.perf_counter()
        engine._turn()
        times.append(time.perf_counter() - began)
    return significant(1000 * median(times))


def _device_times(setup: Setup, lane: Lane, bucket: Bucket) -> dict[str, float]:
    """Milliseconds of parts of a step, each a graph of its own; none of them moves a row."""
    rows = lane.rows
    now = rows._of(bucket.rows)
    mask = rows._step_masks(now.position_B1, bucket.length)
    logits_BV = rows.forward(now.next_B1D, now.table_BT, now.position_B1, bucket.length, mask).clone()
    drawn = draw(logits_BV, now.controls, now.step_B1, bucket.width)

    def latents() -> None:
        weights_BK = averaged_weights(drawn, now.controls, now.step_B1, 1)
        mix(rows.embedding, drawn.ids_BK, weights_BK)

    parts = {
        "forward_ms": lambda: rows.forward(now.next_B1D, now.table_BT, now.position_B1, bucket.length, mask),
        "draw_ms": lambda: draw(logits_BV, now.controls, now.step_B1, bucket.width),
        "latents_ms": latents,
    }
    return {part: significant(milliseconds(setup, graphed(setup, action), 10)) for part, action in parts.items()}


def _profiled(setup: Setup, lane: Lane, bucket: Bucket, layers: int) -> dict[str, Any]:
    """Kernels of a step run one operation after another, by name: how many, and their microseconds."""
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if setup.cuda else [])
    with profile(activities=kinds) as profiler:
        for _ in range(_PROFILED):
            lane.rows.step(bucket.rows, bucket.length, bucket.width, draws=bucket.draws)
        setup.synchronize()
    counts, micros = Counter[str](), Counter[str]()
    for event in profiler.events() or ():
        if (event.device_type == DeviceType.CUDA) is not setup.cuda:
            continue
        if event.cpu_parent is not None and not setup.cuda:
            continue  # an operation within another
        counts[event.name] += 1
        micros[event.name] += event.time_range.elapsed_us()
    total = sum(counts.values()) / _PROFILED
    top = {
        f"{kernel[:110]} #{index}": {
            "per_step": round(counts[kernel] / _PROFILED, 2),
            "us_per_step": significant(taken / _PROFILED),
        }
        for index, (kernel, taken) in enumerate(micros.most_common(_TOP))
    }
    return {
        "kernels_per_step": total,
        "kernels_per_layer_at_most": round(total / layers, 1),
        "kernel_ms_per_step": significant(sum(micros.values()) / _PROFILED / 1000),
        "top_kernels": top,
    }
