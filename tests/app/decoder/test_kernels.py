"""The kernels, run on a CPU by Triton's interpreter, give what the torch functions give.

The interpreter (tests/conftest.py asks for it) knows no products in bfloat16: float16 stands for half precision here,
and bfloat16 is `scripts/gpu_check.sh`'s.

Axes: B rows, G query heads, H key-value heads, M positions in view, S head size.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from app.decoder import fused
from app.decoder.cache import BLOCK, BlockPool, LayerShape, PagedCache, PagedLayer, PlaneShape
from app.decoder.fused import FusedDecoder
from app.decoder.lean import rotated
from tests.app.decoder.test_lean import FAMILY, as_policy, made, through_slots
from training.models.policy import Policy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")

CLOSE = {torch.float32: 3e-6, torch.float16: 5e-3}
DTYPES = tuple(CLOSE)


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    if sys.platform != "linux":
        pytest.skip("Triton is built for Linux only.")
    return importlib.import_module("app.decoder.kernels")


def bound(position_B: Tensor, heads: int, length: int, size: int, dtype: torch.dtype) -> PagedLayer:
    """A layer of blocks that lie anywhere, bound to one position per row."""
    rows, count = len(position_B), length // BLOCK
    plane = PlaneShape(heads, size, dtype, position_B.device)
    cache = PagedCache(BlockPool([LayerShape(plane, plane)], rows * (count + 1) + 2))
    for blocks in cache.pool.planes:
        blocks.normal_()
    table_BT = torch.randperm(rows * (count + 1))[: rows * (count + 1)].view(rows, -1) + 1  # one more than in view
    cache.bind(table_BT, position_B[:, None], length)
    return cache.paged_layers[0]


def shown(plane_NHPS: Tensor, layer: PagedLayer) -> Tensor:
    """What a table shows of a plane, in its order: [B, H, M, S]."""
    assert layer.view is not None
    blocks_BTHPS = plane_NHPS[layer.view.shown_BT]
    return blocks_BTHPS.transpose(1, 2).flatten(2, 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize(
    ("rows", "heads", "group", "size", "length"),
    [(3, 2, 2, 16, 48), (1, 2, 7, 64, 640), (5, 1, 3, 24, 96), (1, 1, 1, 128, 1024)],
)
def test_attention_is_that_of_a_mask(
    kernels: Any,
    dtype: torch.dtype,
    window: int | None,
    rows: int,
    heads: int,
    group: int,
    size: int,
    length: int,
) -> None:
    torch.manual_seed(0)
    position_B = torch.randint(0, length, (rows,))
    position_B[0] = length - 1
    layer = bound(position_B, heads, length, size, dtype)
    queries_B1GS = torch.randn(rows, 1, heads * group, size).to(dtype)
    at_M = torch.arange(length)
    seen_BM = (at_M <= position_B[:, None]) & (at_M > position_B[:, None] - (window or length))
    mask = torch.where(seen_BM, 0.0, float("-inf")).to(dtype)[:, None, None]
    keys, values = shown(layer.keys_NHPS, layer), shown(layer.values_NHPS, layer)
    expected = fused.attended_by_one(queries_B1GS, keys, values, mask, size**-0.5)[:, 0]
    got = kernels.attended(queries_B1GS[:, 0], layer, size**-0.5, window or kernels.EVERYTHING)
    torch.testing.assert_close(got, expected, rtol=0, atol=CLOSE[dtype])


def test_few_rows_of_many_positions_are_split(kernels: Any) -> None:
    assert [kernels.splits_of(2, length) for length in (256, 512, 2048, 8192)] == [1, 4, 16, 16]
    assert kernels.splits_of(128, 8192) == 1


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_queries_are_turned_and_keys_and_values_kept_where_they_belong(
    kernels: Any, dtype: torch.dtype, normed: bool
) -> None:
    torch.manual_seed(0)
    rows, queries, heads, size = 3, 4, 2, 24
    position_B = torch.tensor([[0, 9], [31, 9], [7, 9]])[:, 0]  # one number in two of the storage
    layer = bound(position_B, heads, 32, size, dtype)
    planes = layer.keys_NHPS, layer.values_NHPS
    before = [plane.clone() for plane in planes]
    heads_BNS = torch.randn(rows, queries + 2 * heads, size).to(dtype)
    cos_BS, sin_BS = torch.randn(2, rows, size).to(dtype)
    of_queries, of_keys = torch.randn(2, size).to(dtype)
    norms = (of_queries, of_keys, 1e-6) if normed else None
    got = kernels.turned(heads_BNS.flatten(1), cos_BS, sin_BS, layer, norms)

    def prepared(part_BNS: Tensor, weight_S: Tensor) -> Tensor:
        part_BNS = torch.nn.functional.rms_norm(part_BNS, (size,), weight_S, 1e-6) if normed else part_BNS
        return rotated(part_BNS, cos_BS[:, None], sin_BS[:, None])

    asked, known, held = heads_BNS.split_with_sizes([queries, heads, heads], 1)
    torch.testing.assert_close(got, prepared(asked, of_queries), rtol=0, atol=2 * CLOSE[dtype])
    assert layer.view is not None
    at = layer.view.block_BC[:, 0], slice(None), layer.view.offset_BC[:, 0]
    torch.testing.assert_close(planes[0][at], prepared(known, of_keys), rtol=0, atol=2 * CLOSE[dtype])
    assert torch.equal(planes[1][at], held)
    for plane, old in zip(planes, before, strict=True):
        plane[at] = old[at]
        assert torch.equal(plane, old), "nothing else is written"


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gate(kernels: Any, dtype: torch.dtype) -> None:
    both_XI = torch.randn(3, 2 * 1500).to(dtype)
    gate_XI, up_XI = both_XI.chunk(2, dim=-1)
    expected = torch.nn.functional.silu(gate_XI.float()) * up_XI.float()
    torch.testing.assert_close(kernels.gated(both_XI).float(), expected, rtol=0, atol=2 * CLOSE[dtype])


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float16, 5e-3)])
def test_steps_by_kernels_give_the_stock_models_logits(
    kernels: ModuleType,
    policy: Policy,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    monkeypatch.setattr(fused, "kernels_on", lambda *_given, **_named: kernels)
    model = made(name)
    torch.nn.Module.to(model, dtype)
    mine = as_policy(policy, model)
    expected = through_slots(mine, model, 20, 4)
    torch.testing.assert_close(through_slots(mine, FusedDecoder(model), 20, 4), expected, rtol=0, atol=tolerance)


def test_all_of_them_can_be_tried_out(kernels: Any) -> None:
    for normed in (False, True):
        kernels.try_out(torch.device("cpu"), torch.float32, (4, 2, 16), normed=normed)


def test_without_a_gpu_there_are_none() -> None:
    assert fused.kernels_on(torch.device("cpu"), torch.float32, (4, 2, 16), normed=False) is None


def test_kernels_that_do_not_compile_leave_torchs_operations(
    kernels: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_given: Any, **_named: Any) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(kernels, "try_out", broken)
    assert fused.kernels_on(torch.device("cuda"), torch.float32, (4, 2, 16), normed=False) is None
    assert "Failed to find C compiler" in caplog.text
