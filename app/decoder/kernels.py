"""Three kernels of a decode step on a GPU, in Triton: what stands between the products of a layer.

`turned` rotates queries and keys (norming each head first, where a model does) and writes keys and values to their
blocks; `attended` reads each row's blocks up to its own position and no further, on several processors where rows are
few; `gated` is silu(gate) * up. Sums, softmax and norms are float32. The definitions are the torch functions
of `app.decoder.fused`, which run where these cannot; tests/app/decoder/test_kernels.py holds the two together by
Triton's interpreter. Import only where Triton is installed; leaves out products and prompts.

Axes: B rows, N heads of all three kinds, G query heads, H key-value heads, R = G / H, M positions in view, S head size,
X rows of a product, I inner size.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from app.decoder.cache import BLOCK, PADDING, BlockPool, LayerShape, PagedCache, PagedLayer, PlaneShape, View

EVERYTHING = 2**30  # the window of a layer that sees all
_LEAST_ROWS = 16  # of a product by tensor cores; a group of heads is padded to it
_ENOUGH = 64  # programs that keep a GPU busy
_SPLIT_FROM, _PER_SPLIT, _MOST_SPLITS = 512, 128, 16  # positions, positions, parts
_UNSPLIT = 2**24  # positions that nobody has: a kernel is not compiled again per length


def turned(
    heads_BX: Tensor, cos_BS: Tensor, sin_BS: Tensor, layer: PagedLayer, norms: tuple[Tensor, Tensor, float] | None
) -> Tensor:
    """Rotate queries and keys, and keep keys and values at each row's position.

    Args:
        heads_BX: [B, N * S], queries, keys and values side by side; contiguous.
        cos_BS: of each row's position.
        sin_BS: likewise; the first half carries the sign of the swapped halves.
        layer: whose blocks are written; it is bound to one position per row.
        norms: weights [S] of the head norms of queries and keys, and their epsilon.

    Returns:
        queries [B, G, S].

    """
    view = _view(layer)
    rows, size = cos_BS.shape
    keys = layer.keys_NHPS.shape[1]
    heads = heads_BX.shape[1] // size
    queries = heads - 2 * keys
    out_BGS = heads_BX.new_empty(rows, queries, size)
    of_queries, of_keys, epsilon = norms or (cos_BS, cos_BS, 0.0)
    _turned[(rows, heads)](
        heads_BX,
        cos_BS,
        sin_BS,
        view.block_BC,
        view.offset_BC,
        layer.keys_NHPS,
        layer.values_NHPS,
        out_BGS,
        of_queries,
        of_keys,
        epsilon,
        view.block_BC.stride(0),
        view.offset_BC.stride(0),
        QUERIES=queries,
        KEYS=keys,
        PER_BLOCK=BLOCK,
        HALF=size // 2,
        LANES=triton.next_power_of_2(size // 2),
        NORMED=norms is not None,
        num_warps=1,
    )
    return out_BGS


def attended(queries_BGS: Tensor, layer: PagedLayer, scaling: float, window: int) -> Tensor:
    """Attend with one query per row and head, to the positions up to the row's own.

    Args:
        queries_BGS: contiguous.
        layer: whose blocks are read, bound to the rows' newest positions; a row sees its own.
        scaling: of the scores.
        window: positions seen at most.

    Returns:
        [B, G * S].

    """
    view = _view(layer)
    rows, queries, size = queries_BGS.shape
    keys, length = layer.keys_NHPS.shape[1], view.shown_BT.shape[1] * BLOCK
    wide = queries_BGS.dtype == torch.float32
    lanes = 32 if wide else 64
    splits = splits_of(rows * keys, length)
    per_split = triton.cdiv(triton.cdiv(length, splits), lanes) * lanes if splits > 1 else _UNSPLIT
    out_BX = queries_BGS.new_empty(rows, queries * size)
    alone = splits == 1
    parts = out_BX if alone else torch.empty(rows * queries, splits, size, device=out_BX.device)
    tops = out_BX if alone else torch.empty(rows * queries, splits, 2, device=out_BX.device)
    padded = triton.next_power_of_2(size)
    _attended[(rows * keys, splits)](
        queries_BGS,
        layer.keys_NHPS,
        layer.values_NHPS,
        view.position_BC,
        view.table_BT,
        parts,
        tops,
        scaling,
        window,
        per_split,
        splits,
        view.position_BC.stride(0),
        view.table_BT.stride(0),
        KEYS=keys,
        GROUP=queries // keys,
        ROWS=max(_LEAST_ROWS, triton.next_power_of_2(queries // keys)),
        SIZE=size,
        WIDE=padded,
        PER_BLOCK=BLOCK,
        LANES=lanes,
        ALONE=alone,
        num_warps=4,
        num_stages=2,
    )
    if not alone:
        _merged[(rows * queries,)](parts, tops, out_BX, splits, SIZE=size, WIDE=padded, ROOM=_MOST_SPLITS, num_warps=1)
    return out_BX


def splits_of(programs: int, length: int) -> int:
    """Into how many parts each row's positions are split: more than one where rows are few and positions many."""
    if programs >= _ENOUGH or length < _SPLIT_FROM:
        return 1
    return min(length // _PER_SPLIT, _MOST_SPLITS)


def gated(both_XI: Tensor) -> Tensor:
    """Compute silu(gate) * up of [X, 2 * I], gates first; contiguous."""
    rows, width = both_XI.shape[0], both_XI.shape[1] // 2
    out_XI = both_XI.new_empty(rows, width)
    lanes = 1024
    _gated[(rows, triton.cdiv(width, lanes))](both_XI, out_XI, width, LANES=lanes, num_warps=4)
    return out_XI


def try_out(device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int], *, normed: bool) -> None:
    """Run every kernel once, as a model of G, H and S needs it: so all are compiled before anyone waits."""
    queries, keys, size = shape
    heads_BX = torch.zeros(1, (queries + 2 * keys) * size, device=device, dtype=dtype)
    angle_BS = torch.zeros(1, size, device=device, dtype=dtype)
    plane = PlaneShape(keys, size, dtype, device)
    cache = PagedCache(BlockPool([LayerShape(plane, plane)], 1))
    table_BT = torch.full((1, _SPLIT_FROM // BLOCK), PADDING, device=device)
    norms = (angle_BS[0], angle_BS[0], 1e-6) if normed else None
    for length in (BLOCK, _SPLIT_FROM):
        cache.bind(table_BT, torch.zeros((1, 1), device=device, dtype=torch.int64), length)
        queries_BGS = turned(heads_BX, angle_BS, angle_BS, cache.paged_layers[0], norms)
        attended(queries_BGS, cache.paged_layers[0], 1.0, EVERYTHING)
    gated(heads_BX)


def _view(layer: PagedLayer) -> View:
    assert layer.view is not None
    return layer.view


@triton.jit
def _turned(
    heads,
    cos,
    sin,
    block,
    offset,
    keys,
    values,
    out,
    of_queries,
    of_keys,
    epsilon,
    block_stride,
    offset_stride,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PER_BLOCK: tl.constexpr,
    HALF: tl.constexpr,
    LANES: tl.constexpr,
    NORMED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    at = tl.arange(0, LANES)
    inside = at < HALF
    source = heads + (row * (QUERIES + 2 * KEYS) + head) * 2 * HALF
    low = tl.load(source + at, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(source + HALF + at, mask=inside, other=0.0).to(tl.float32)
    is_query = head < QUERIES
    is_value = head >= QUERIES + KEYS
    new_low = low
    new_high = high
    if NORMED:
        scale = tl.rsqrt((tl.sum(low * low) + tl.sum(high * high)) / (2 * HALF) + epsilon)
        weight_low = tl.where(
            is_query, tl.load(of_queries + at, mask=inside, other=0.0), tl.load(of_keys + at, mask=inside, other=0.0)
        ).to(tl.float32)
        weight_high = tl.where(
            is_query,
            tl.load(of_queries + HALF + at, mask=inside, other=0.0),
            tl.load(of_keys + HALF + at, mask=inside, other=0.0),
        ).to(tl.float32)
        new_low = low * scale * weight_low
        new_high = high * scale * weight_high
    angle = row * 2 * HALF + at
    cos_low = tl.load(cos + angle, mask=inside, other=0.0).to(tl.float32)
    cos_high = tl.load(cos + angle + HALF, mask=inside, other=0.0).to(tl.float32)
    sin_low = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32)
    sin_high = tl.load(sin + angle + HALF, mask=inside, other=0.0).to(tl.float32)
    turned_low = tl.where(is_value, low, new_low * cos_low + new_high * sin_low)
    turned_high = tl.where(is_value, high, new_high * cos_high + new_low * sin_high)
    first = tl.load(block + row * block_stride).to(tl.int64) * KEYS * PER_BLOCK * 2 * HALF
    where = first + tl.load(offset + row * offset_stride).to(tl.int64) * 2 * HALF
    kind = out.dtype.element_ty
    target = out + (row * QUERIES + head) * 2 * HALF + at
    tl.store(target, turned_low.to(kind), mask=inside & is_query)
    tl.store(target + HALF, turned_high.to(kind), mask=inside & is_query)
    is_key = (head >= QUERIES) & (head < QUERIES + KEYS)
    slot = keys + where + (head - QUERIES) * PER_BLOCK * 2 * HALF + at
    tl.store(slot, turned_low.to(kind), mask=inside & is_key)
    tl.store(slot + HALF, turned_high.to(kind), mask=inside & is_key)
    slot = values + where + (head - QUERIES - KEYS) * PER_BLOCK * 2 * HALF + at
    tl.store(slot, turned_low.to(kind), mask=inside & is_value)
    tl.store(slot + HALF, turned_high.to(kind), mask=inside & is_value)


@triton.jit
def _attended(
    queries,
    keys,
    values,
    position,
    table,
    parts,
    tops,
    scaling,
    window,
    per_split,
    splits,
    position_stride,
    table_stride,
    KEYS: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    SIZE: tl.constexpr,
    WIDE: tl.constexpr,
    PER_BLOCK: tl.constexpr,
    LANES: tl.constexpr,
    ALONE: tl.constexpr,
):
    row = (tl.program_id(0) // KEYS).to(tl.int64)
    key = tl.program_id(0) % KEYS
    split = tl.program_id(1)
    seen = tl.load(position + row * position_stride).to(tl.int32) + 1
    first = tl.maximum(seen - window, 0)
    end = tl.minimum(seen, (split + 1) * per_split)
    start = tl.maximum(first, split * per_split) // LANES * LANES
    of_group = tl.arange(0, ROWS)
    of_size = tl.arange(0, WIDE)
    of_lanes = tl.arange(0, LANES)
    head = row * KEYS * GROUP + key * GROUP + of_group
    real = (of_group < GROUP)[:, None] & (of_size < SIZE)[None, :]
    asked = tl.load(queries + head[:, None] * SIZE + of_size[None, :], mask=real, other=0.0)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    mass = tl.zeros([ROWS], tl.float32)
    gathered = tl.zeros([ROWS, WIDE], tl.float32)
    for begin in range(start, end, LANES):
        at = begin + of_lanes
        shown = (at >= first) & (at < end)
        block = tl.load(table + row * table_stride + at // PER_BLOCK, mask=shown, other=0).to(tl.int64)
        place = ((block * KEYS + key) * PER_BLOCK + at % PER_BLOCK) * SIZE
        known = tl.load(
            keys + place[None, :] + of_size[:, None],
            mask=shown[None, :] & (of_size < SIZE)[:, None],
            other=0.0,
        )
        score = tl.dot(asked, known, input_precision="ieee") * scaling
        score = tl.where(shown[None, :], score, float("-inf"))
        new_top = tl.maximum(top, tl.max(score, 1))
        weight = tl.exp(score - new_top[:, None])
        shrink = tl.exp(top - new_top)
        held = tl.load(
            values + place[:, None] + of_size[None, :],
            mask=shown[:, None] & (of_size < SIZE)[None, :],
            other=0.0,
        )
        mass = mass * shrink + tl.sum(weight, 1)
        gathered = gathered * shrink[:, None] + tl.dot(weight.to(held.dtype), held, input_precision="ieee")
        top = new_top
    if ALONE:
        target = parts + head[:, None] * SIZE + of_size[None, :]
        tl.store(target, (gathered / mass[:, None]).to(parts.dtype.element_ty), mask=real)
    else:
        place = head * splits + split
        tl.store(parts + place[:, None] * SIZE + of_size[None, :], gathered, mask=real)
        tl.store(tops + place * 2, top, mask=of_group < GROUP)
        tl.store(tops + place * 2 + 1, mass, mask=of_group < GROUP)


@triton.jit
def _merged(parts, tops, out, splits, SIZE: tl.constexpr, WIDE: tl.constexpr, ROOM: tl.constexpr):
    head = tl.program_id(0).to(tl.int64)
    of_split = tl.arange(0, ROOM)
    of_size = tl.arange(0, WIDE)
    there = of_split < splits
    place = head * splits + of_split
    top = tl.load(tops + place * 2, mask=there, other=float("-inf"))
    mass = tl.load(tops + place * 2 + 1, mask=there, other=0.0)
    share = tl.exp(top - tl.max(top, 0))
    inside = there[:, None] & (of_size < SIZE)[None, :]
    part = tl.load(parts + place[:, None] * SIZE + of_size[None, :], mask=inside, other=0.0)
    whole = tl.sum(part * share[:, None], 0) / tl.sum(mass * share, 0)
    tl.store(out + head * SIZE + of_size, whole.to(out.dtype.element_ty), mask=of_size < SIZE)


@triton.jit
def _gated(both, out, width, LANES: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * LANES + tl.arange(0, LANES)
    inside = at < width
    gate = tl.load(both + row * 2 * width + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both + row * 2 * width + width + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + at, (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty), mask=inside)
