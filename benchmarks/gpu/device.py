"""What the device itself can do: copies, products, launches, and attention of a decode step in several ways.

Axes: B rows, H key-value heads, R query heads of a group, M positions in view, S head size.
"""

import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional

from app.decoder.cache import BLOCK, BlockPool, LayerShape, PagedCache, PlaneShape
from app.decoder.fused import attended_by_one, kernels_on
from benchmarks.gpu.runner import Note
from benchmarks.gpu.setup import Setup, milliseconds
from benchmarks.timing import machine, significant
from training.models.backends import settle


def check(note: Note, setup: Setup) -> None:
    """Names and versions, then the two ceilings: bytes and operations per second."""
    note.put("machine", value=machine() | {"platform": platform.platform(), "executable": sys.version})
    if setup.cuda:
        properties = torch.cuda.get_device_properties(setup.device)
        note.put(
            "device",
            value={
                "name": properties.name,
                "memory_gb": significant(properties.total_memory / 1e9),
                "free_gb": significant(torch.cuda.mem_get_info()[0] / 1e9),
                "processors": properties.multi_processor_count,
                "l2_mb": significant(properties.L2_cache_size / 1e6),
                "capability": f"{properties.major}.{properties.minor}",
                "cuda": str(torch.version.cuda),
                "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            },
        )
    bandwidth = copy_bandwidth(setup)
    note.put("copy_bandwidth_gb_s", value=significant(bandwidth / 1e9))
    note.tell(f"copy bandwidth {bandwidth / 1e9:.0f} GB/s")
    side = setup.work.square
    one, other = (torch.randn(side, side, device=setup.device, dtype=setup.dtype) for _ in range(2))
    rate = 2 * side**3 / milliseconds(setup, lambda: one @ other, 10) / 1e9
    note.put("product_tflop_s", value=significant(rate))
    host = torch.ones(2**28 if setup.cuda else 2**22)
    note.put("upload_gb_s", "pageable", value=significant(_upload(setup, host)))
    if setup.cuda:
        note.put("upload_gb_s", "pinned", value=significant(_upload(setup, host.pin_memory())))
        note.put("launches", value=_launches(setup))
    note.tell(f"products {rate:.0f} TFLOP/s")


def copy_bandwidth(setup: Setup) -> float:
    """Bytes per second of a device-to-device copy, reads and writes both counted."""
    source = torch.ones(setup.work.copied_bytes, dtype=torch.uint8, device=setup.device)
    target = torch.empty_like(source)
    return 2 * setup.work.copied_bytes / (milliseconds(setup, lambda: target.copy_(source), 10) / 1000)


def _upload(setup: Setup, host: Tensor) -> float:
    target = torch.empty_like(host, device=setup.device)
    return host.nbytes / milliseconds(setup, lambda: target.copy_(host, non_blocking=True), 3) / 1e6


def _launches(setup: Setup) -> dict[str, float]:
    """Microseconds that a tiny kernel costs: started by the host, and within a graph."""
    small = torch.zeros(8, device=setup.device)

    def hundred() -> None:
        for _ in range(100):
            small.add_(1)

    return {
        "eager_us": significant(10 * milliseconds(setup, hundred, 20)),
        "in_a_graph_us": significant(10 * milliseconds(setup, graphed(setup, hundred), 20)),
    }


def graphed(setup: Setup, action: Callable[[], object]) -> Callable[[], object]:
    """Capture an action as a graph and give its replay; the action itself where there are no graphs."""
    if not setup.cuda:
        return action
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            action()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        action()
    return graph.replay


def attention(note: Note, setup: Setup) -> None:
    """Microseconds of one layer's attention of a decode step, by ways that can be had; and what a new shape costs."""
    settle(torch.device(setup.device))
    cases = [("0.5b", 2, 7, 64), ("3b", 2, 8, 128)] if setup.cuda else [("micro", 2, 2, 16)]
    for name, heads, group, size in cases:
        for rows, length in ((1, 512), (8, 512), (64, 512), (64, 2048)) if setup.cuda else ((2, 32),):
            ways = _ways(setup, rows, heads, group, length, size)
            for way, action in ways.items():

                def judge(action: Callable[[], object] = action) -> tuple[bool, dict[str, Any]]:
                    return True, {"us": significant(1000 * milliseconds(setup, graphed(setup, action), 20) / 10)}

                note.check(f"{name}, {rows} rows, {length} positions: {way}", judge)
    if setup.cuda:
        note.put("new_shapes_ms", value={str(on): _new_shapes(setup, cudnn=on) for on in (False, True)})


def _ways(setup: Setup, rows: int, heads: int, group: int, length: int, size: int) -> dict[str, Callable[[], object]]:
    like = torch.empty(0, device=setup.device, dtype=setup.dtype)
    keys_BHMS, values_BHMS = (like.new_empty(rows, heads, 2 * length, size).normal_()[:, :, :length] for _ in range(2))
    queries_B1GS = like.new_empty(rows, 1, heads * group, size).normal_()
    mask_B11M = like.new_zeros(rows, 1, 1, length)
    mask_B11M[..., length - 40 :] = float("-inf")
    queries_BGCS = queries_B1GS.transpose(1, 2)
    grouped_BHRS = queries_B1GS.view(rows, heads, group, size)

    def ten(action: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:
            for _ in range(10):
                action()

        return run

    def repeated() -> Tensor:
        keys, values = (plane.repeat_interleave(group, 1) for plane in (keys_BHMS, values_BHMS))
        return functional.scaled_dot_product_attention(queries_BGCS, keys, values, mask_B11M)

    def grouped() -> Tensor:
        return functional.scaled_dot_product_attention(grouped_BHRS, keys_BHMS, values_BHMS, mask_B11M)

    def by_cudnn() -> Tensor:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.CUDNN_ATTENTION):
            return grouped()

    ways: dict[str, Callable[[], object]] = {
        "two products": ten(lambda: attended_by_one(queries_B1GS, keys_BHMS, values_BHMS, mask_B11M, size**-0.5)),
        "repeated keys, SDPA": ten(repeated),
        "grouped, SDPA": ten(grouped),
    }
    kernels = kernels_on(like.device, setup.dtype, (heads * group, heads, size), normed=False)
    if kernels is not None:
        plane = PlaneShape(heads, size, like.dtype, like.device)
        cache = PagedCache(BlockPool([LayerShape(plane, plane)], 1 + rows * length // BLOCK))
        table_BT = torch.randperm(rows * length // BLOCK, device=setup.device).view(rows, -1) + 1
        cache.bind(table_BT, torch.full((rows, 1), length - 41, device=setup.device), length)
        given = queries_B1GS[:, 0], cache.paged_layers[0], size**-0.5, kernels.EVERYTHING
        ways["Triton, blocks"] = ten(lambda: kernels.attended(*given))
    return ways | ({"grouped, cuDNN": ten(by_cudnn)} if setup.cuda else {})


def _new_shapes(setup: Setup, *, cudnn: bool) -> dict[str, float]:
    """Milliseconds of SDPA at a shape never seen before, and of the same again: what cuDNN's plans cost."""
    torch.backends.cuda.enable_cudnn_sdp(cudnn)
    first: list[float] = []
    again: list[float] = []
    for count in (33, 35, 37, 39):
        query = torch.randn(2, 4, count, 64, device=setup.device, dtype=setup.dtype)
        mask = torch.zeros(2, 1, count, count, device=setup.device, dtype=setup.dtype)
        for times in (first, again):
            setup.synchronize()
            began = time.perf_counter()
            functional.scaled_dot_product_attention(query, query, query, mask)
            setup.synchronize()
            times.append(1000 * (time.perf_counter() - began))
    torch.backends.cuda.enable_cudnn_sdp(False)
    return {"first": significant(max(first[1:])), "again": significant(max(again[1:]))}


def versions() -> dict[str, str]:
    """Tell what is installed, before any device is touched."""
    return {"torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version()}
