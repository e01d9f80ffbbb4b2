"""Three kernels of a decode step on a GPU, in Triton: what stands between the products of a layer.

`turned` rotates queries and keys (norming each head first, where a model does) and writes keys and values to their
slots; `attended` reads each row's keys and values up to its own position and no further, on several processors where
rows are few; `gated` is silu(gate) * up. Sums, softmax and norms are float32. The definitions are the torch functions
of `app.decoder.fused`, which run where these cannot; tests/app/decoder/test_kernels.py holds the two together by
Triton's interpreter. Import only where Triton is installed; leaves out products and prompts.

Axes: B rows, N heads of all three kinds, G query heads, H key-value heads, R = G / H, M positions in view, S head size,
X rows of a product, I inner size.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

EVERYTHING = 2**30  # the window of a layer that sees all
_LEAST_ROWS = 16  # of a product by tensor cores; a group of heads is padded to it
_ENOUGH = 64  # programs that keep a GPU busy
_SPLIT_FROM, _PER_SPLIT, _MOST_SPLITS = 512, 128, 16  # positions, positions, parts
_UNSPLIT = 2**24  # positions that nobody has: a kernel is not compiled again per length


def turned(
    heads_BX: Tensor,
    cos_BS: Tensor,
    sin_BS: Tensor,
    position_B: Tensor,
    keys_BHMS: Tensor,
    values_BHMS: Tensor,
    norms: tuple[Tensor, Tensor, float] | None,
) -> Tensor:
    """Rotate queries and keys, and keep keys and values at each row's position.

    Args:
        heads_BX: [B, N * S], queries, keys and values side by side; contiguous.
        cos_BS: of each row's position.
        sin_BS: likewise; the first half carries the sign of the swapped halves.
        position_B: int64, where each row writes.
        keys_BHMS: slots, written in place; the last axis is contiguous, one position S apart.
        values_BHMS: likewise.
        norms: weights [S] of the head norms of queries and keys, and their epsilon.

    Returns:
        queries [B, G, S].

    """
    rows, size = cos_BS.shape
    keys = keys_BHMS.shape[1]
    heads = heads_BX.shape[1] // size
    queries = heads - 2 * keys
    out_BGS = heads_BX.new_empty(rows, queries, size)
    of_queries, of_keys, epsilon = norms or (cos_BS, cos_BS, 0.0)
    _turned[(rows, heads)](
        heads_BX,
        cos_BS,
        sin_BS,
        position_B,
        keys_BHMS,
        values_BHMS,
        out_BGS,
        of_queries,
        of_keys,
        epsilon,
        position_B.stride(0),
        *keys_BHMS.stride()[:2],
        *values_BHMS.stride()[:2],
        QUERIES=queries,
        KEYS=keys,
        HALF=size // 2,
        BLOCK=triton.next_power_of_2(size // 2),
        NORMED=norms is not None,
        num_warps=1,
    )
    return out_BGS


def attended(
    queries_BGS: Tensor, keys_BHMS: Tensor, values_BHMS: Tensor, position_B: Tensor, scaling: float, window: int
) -> Tensor:
    """Attend with one query per row and head, to the positions up to the row's own.

    Args:
        queries_BGS: contiguous.
        keys_BHMS: slots in view.
        values_BHMS: likewise.
        position_B: int64, the newest position of each row; it sees itself.
        scaling: of the scores.
        window: positions seen at most.

    Returns:
        [B, G * S].

    """
    rows, queries, size = queries_BGS.shape
    keys, length = keys_BHMS.shape[1:3]
    wide = queries_BGS.dtype == torch.float32
    block = 32 if wide else 64
    splits = splits_of(rows * keys, length)
    per_split = triton.cdiv(triton.cdiv(length, splits), block) * block if splits > 1 else _UNSPLIT
    out_BX = queries_BGS.new_empty(rows, queries * size)
    alone = splits == 1
    parts = out_BX if alone else torch.empty(rows * queries, splits, size, device=out_BX.device)
    tops = out_BX if alone else torch.empty(rows * queries, splits, 2, device=out_BX.device)
    padded = triton.next_power_of_2(size)
    _attended[(rows * keys, splits)](
        queries_BGS,
        keys_BHMS,
        values_BHMS,
        position_B,
        parts,
        tops,
        scaling,
        window,
        per_split,
        splits,
        position_B.stride(0),
        *keys_BHMS.stride()[:2],
        *values_BHMS.stride()[:2],
        KEYS=keys,
        GROUP=queries // keys,
        ROWS=max(_LEAST_ROWS, triton.next_power_of_2(queries // keys)),
        SIZE=size,
        WIDE=padded,
        BLOCK=block,
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
    block = 1024
    _gated[(rows, triton.cdiv(width, block))](both_XI, out_XI, width, BLOCK=block, num_warps=4)
    return out_XI


def try_out(device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int], *, normed: bool) -> None:
    """Run every kernel once, as a model of G, H and S needs it: so all are compiled before anyone waits."""
    queries, keys, size = shape
    heads_BX = torch.zeros(1, (queries + 2 * keys) * size, device=device, dtype=dtype)
    angle_BS = torch.zeros(1, size, device=device, dtype=dtype)
    position_B = torch.zeros(1, device=device, dtype=torch.int64)
    slots_BHMS = torch.zeros(1, keys, _SPLIT_FROM, size, device=device, dtype=dtype)
    norms = (angle_BS[0], angle_BS[0], 1e-6) if normed else None
    queries_BGS = turned(heads_BX, angle_BS, angle_BS, position_B, slots_BHMS, slots_BHMS, norms)
    for length in (1, _SPLIT_FROM):
        view_BHMS = slots_BHMS[:, :, :length]
        attended(queries_BGS, view_BHMS, view_BHMS, position_B, 1.0, EVERYTHING)
    gated(heads_BX)


@triton.jit
def _turned(
    heads,
    cos,
    sin,
    position,
    keys,
    values,
    out,
    of_queries,
    of_keys,
    epsilon,
    position_stride,
    key_row,
    key_head,
    value_row,
    value_head,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    NORMED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    at = tl.arange(0, BLOCK)
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
    where = tl.load(position + row * position_stride).to(tl.int64) * 2 * HALF
    kind = out.dtype.element_ty
    target = out + (row * QUERIES + head) * 2 * HALF + at
    tl.store(target, turned_low.to(kind), mask=inside & is_query)
    tl.store(target + HALF, turned_high.to(kind), mask=inside & is_query)
    is_key = (head >= QUERIES) & (head < QUERIES + KEYS)
    slot = keys + row * key_row + (head - QUERIES) * key_head + where + at
    tl.store(slot, turned_low.to(kind), mask=inside & is_key)
    tl.store(slot + HALF, turned_high.to(kind), mask=inside & is_key)
    slot = values + row * value_row + (head - QUERIES - KEYS) * value_head + where + at
    tl.store(slot, turned_low.to(kind), mask=inside & is_value)
    tl.store(slot + HALF, turned_high.to(kind), mask=inside & is_value)


@triton.jit
def _attended(
    queries,
    keys,
    values,
    position,
    parts,
    tops,
    scaling,
    window,
    per_split,
    splits,
    position_stride,
    key_row,
    key_head,
    value_row,
    value_head,
    KEYS: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    SIZE: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    ALONE: tl.constexpr,
):
    row = (tl.program_id(0) // KEYS).to(tl.int64)
    key = tl.program_id(0) % KEYS
    split = tl.program_id(1)
    seen = tl.load(position + row * position_stride).to(tl.int32) + 1
    first = tl.maximum(seen - window, 0)
    end = tl.minimum(seen, (split + 1) * per_split)
    start = tl.maximum(first, split * per_split) // BLOCK * BLOCK
    of_group = tl.arange(0, ROWS)
    of_size = tl.arange(0, WIDE)
    of_block = tl.arange(0, BLOCK)
    head = row * KEYS * GROUP + key * GROUP + of_group
    real = (of_group < GROUP)[:, None] & (of_size < SIZE)[None, :]
    asked = tl.load(queries + head[:, None] * SIZE + of_size[None, :], mask=real, other=0.0)
    key_base = keys + row * key_row + key * key_head
    value_base = values + row * value_row + key * value_head
    top = tl.full([ROWS], float("-inf"), tl.float32)
    mass = tl.zeros([ROWS], tl.float32)
    gathered = tl.zeros([ROWS, WIDE], tl.float32)
    for begin in range(start, end, BLOCK):
        at = begin + of_block
        shown = (at >= first) & (at < end)
        known = tl.load(
            key_base + at[None, :] * SIZE + of_size[:, None],
            mask=shown[None, :] & (of_size < SIZE)[:, None],
            other=0.0,
        )
        score = tl.dot(asked, known, input_precision="ieee") * scaling
        score = tl.where(shown[None, :], score, float("-inf"))
        new_top = tl.maximum(top, tl.max(score, 1))
        weight = tl.exp(score - new_top[:, None])
        shrink = tl.exp(top - new_top)
        held = tl.load(
            value_base + at[:, None] * SIZE + of_size[None, :],
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
def _gated(both, out, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    gate = tl.load(both + row * 2 * width + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both + row * 2 * width + width + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + at, (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty), mask=inside)
