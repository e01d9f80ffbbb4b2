"""Attention of a decode step on a CPU, compiled: one walk over each row's blocks, where they lie in the pool.

For each row and key-value head: the new key and the queries of its group are normed (where a model does) and rotated,
key and value are written to their block, and the queries attend to the row's positions up to its own, by the softmax
that carries its maximum along (Milakov and Gimelshein, arXiv:1805.02867). Torch has no such operation on a CPU: it
would gather each row's blocks first, which reads and writes all keys and values once more than the products need.

The definition is that of `app.decoder.lean`, which also runs where numba cannot be imported; tests hold the two
together. Threads are those that torch computes with (`app.decoder.team`): a second team would have both waiting for
each other. They take (row, head) after (row, head) from a counter, so rows of any length keep all of them busy.

Axes: B rows, N heads of all three kinds, G query heads, H key-value heads, R = G / H, T blocks of a row,
P = BLOCK positions, S head size.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from app.decoder.cache import BLOCK, PagedLayer
from app.decoder.team import run_by_all

try:
    from llvmlite import ir
    from numba import carray, cfunc, njit, types  # type: ignore[attr-defined]
    from numba.core import cgutils
    from numba.extending import intrinsic
except ImportError:  # the GPU script runs where there is none
    _COMPILES = False
else:
    _COMPILES = True

F = TypeVar("F", bound=Callable[..., Any])

EVERYTHING = 2**30  # the window of a layer that sees all

# 2^x as in `training.one_pass`: 2^n times a polynomial in what is left (Cephes' exp2f), error below 1e-7.
_P5, _P4, _P3 = np.float32(1.535336188319500e-4), np.float32(1.339887440266574e-3), np.float32(9.618437357674640e-3)
_P2, _P1, _P0 = np.float32(5.550332471162809e-2), np.float32(2.402264791363012e-1), np.float32(6.931472028550421e-1)
_LOWEST, _HALF, _ONE, _ZERO = np.float32(-126), np.float32(0.5), np.float32(1), np.float32(0)
_EXPONENT_BIAS, _MANTISSA_BITS = np.int32(127), np.int32(23)
_LOG2_E = math.log2(math.e)
_UNSEEN = np.float32(-1e30)  # its 2^x is 0, and the difference of two of it too is a number
_P, _FLOAT, _LINE = BLOCK, 4, 64  # positions; bytes; bytes of a line of the processor's caches


class Norms(NamedTuple):
    """Head norms of queries and keys."""

    of_queries_S: np.ndarray[Any, Any]
    of_keys_S: np.ndarray[Any, Any]
    epsilon: float


NO_NORMS = Norms(np.empty(0, np.float32), np.empty(0, np.float32), 0.0)


def norms_of(modules: tuple[Any, Any] | None) -> Norms:
    """Take the head norms of a stock layer, if it has any."""
    if modules is None:
        return NO_NORMS
    of_queries_S, of_keys_S = (module.weight.detach().float().numpy() for module in modules)
    return Norms(of_queries_S, of_keys_S, modules[0].variance_epsilon)


def available() -> bool:
    """Whether this can be compiled here."""
    return _COMPILES


def attended(
    heads_BX: Tensor,
    cos_BS: Tensor,
    sin_BS: Tensor,
    layer: PagedLayer,
    scaling: float,
    window: int,
    norms: Norms = NO_NORMS,
) -> Tensor:
    """Keep one position per row and attend with its queries.

    Args:
        heads_BX: float32 [B, N * S], queries, keys and values side by side; contiguous.
        cos_BS: of each row's position.
        sin_BS: likewise; the first half carries the sign of the swapped halves.
        layer: whose blocks are written and read; it is bound.
        scaling: of the scores.
        window: positions seen at most.
        norms: where the model norms its heads.

    Returns:
        [B, G * S].

    """
    view = layer.view
    assert view is not None
    rows, width = heads_BX.shape
    _, heads, _, size = layer.keys_NHPS.shape
    out_BX = heads_BX.new_empty(rows, width - 2 * heads * size)
    tensors = (heads_BX, cos_BS, sin_BS, view.position_BC, view.table_BT, layer.keys_NHPS, layer.values_NHPS, out_BX)
    assert all(tensor.is_contiguous() for tensor in tensors)
    real = np.array([scaling * _LOG2_E, norms.epsilon], np.float32)
    arrays = (norms.of_queries_S, norms.of_keys_S, real)
    sizes = (0, rows, heads, out_BX.shape[1] // (heads * size), size, view.table_BT.shape[1], layer.keys_NHPS.shape[0])
    options = (window, int(len(norms.of_queries_S) > 0))
    addresses = (*(tensor.data_ptr() for tensor in tensors), *(array.ctypes.data for array in arrays))
    run_by_all(compiled().address, np.array([*sizes, *options, *addresses], np.int64), torch.get_num_threads())
    return out_BX


@cache
def compiled() -> Any:
    """Compile the walk, once per process: seconds, or a moment where an earlier process could keep what it compiled.

    Returns:
        a C function of the address of the arguments that `_walk` unpacks; it lives as long as this is held.

    """
    try:
        return cfunc("void(voidptr)", cache=True)(_walk)
    except RuntimeError:  # no directory to keep it in can be written; see NUMBA_CACHE_DIR
        return cfunc("void(voidptr)")(_walk)


def _inlined(function: F) -> F:
    """Compile a function into those that call it; sums may be taken in any order."""
    if not _COMPILES:
        return function  # never called
    return cast("F", njit(fastmath=True, error_model="numpy", nogil=True)(function))


def _intrinsic(function: F) -> Any:
    """Make an operation of a function that generates it; the function's first argument is numba's own."""
    return intrinsic(function) if _COMPILES else function


@_inlined
def _exp2(x: Any) -> Any:
    """2^x of a float32 at or below 0."""
    x = max(x, _LOWEST)
    whole = np.floor(x + _HALF)
    rest = x - whole
    power = _P0 + rest * (_P1 + rest * (_P2 + rest * (_P3 + rest * (_P4 + rest * _P5))))
    return (_ONE + rest * power) * np.int32((np.int32(whole) + _EXPONENT_BIAS) << _MANTISSA_BITS).view(np.float32)


@_inlined
def _turn(source: Any, weight: Any, epsilon: Any, cos: Any, sin: Any, scale: Any, target: Any) -> None:
    """Norm one head [S] if there is a weight, rotate it, and scale it."""
    size = source.shape[0]
    half = size // 2
    factor = scale
    if weight.shape[0]:
        square = _ZERO
        for at in range(size):
            square += source[at] * source[at]
        factor = scale / np.sqrt(square / np.float32(size) + epsilon)
        for at in range(size):
            target[at] = source[at] * weight[at]
    else:
        for at in range(size):
            target[at] = source[at]
    for at in range(half):
        low, high = target[at] * factor, target[half + at] * factor
        target[at] = low * cos[at] + high * sin[at]
        target[half + at] = high * cos[half + at] + low * sin[half + at]


@_intrinsic
def _pointer(_context: Any, address: Any) -> Any:
    """Make a pointer of an address."""

    def generate(_generator: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


@_intrinsic
def _next_job(_context: Any, counter: Any) -> Any:
    """Take the number that an int64 at a pointer holds, and raise it by one, before anyone else does."""

    def generate(_generator: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        number = builder.bitcast(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", number, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), generate


@_intrinsic
def _fetch(_context: Any, address: Any) -> Any:
    """Have the line of memory at an address brought near, without waiting for it."""

    def generate(_generator: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")  # type: ignore[no-untyped-call]
        hints = [ir.Constant(number, hint) for hint in (0, 2, 1)]  # to be read, by way of the second cache; it is data
        builder.call(fetch, [builder.inttoptr(arguments[0], cgutils.voidptr_t), *hints])
        return _generator.get_dummy_value()

    return types.void(address), generate


def _walk(arguments: Any) -> None:
    """Unpack what `attended` packed, and attend to one (row, head) after another until all are taken."""
    given = carray(arguments, (20,), np.int64)
    rows, count, group, size, places, blocks = given[1], given[2], given[3], given[4], given[5], given[6]
    window, normed = given[7], given[8]
    pool = (blocks, count, _P, size)
    heads = carray(_pointer(given[9]), (rows, (group + 2) * count * size), np.float32)
    cos = carray(_pointer(given[10]), (rows, size), np.float32)
    sin = carray(_pointer(given[11]), (rows, size), np.float32)
    position = carray(_pointer(given[12]), (rows,), np.int64)
    table = carray(_pointer(given[13]), (rows, places), np.int64)
    keys = carray(_pointer(given[14]), pool, np.float32)
    values = carray(_pointer(given[15]), pool, np.float32)
    out = carray(_pointer(given[16]), (rows, group * count * size), np.float32)
    of_queries = carray(_pointer(given[17]), (normed * size,), np.float32)
    of_keys = carray(_pointer(given[18]), (normed * size,), np.float32)
    real = carray(_pointer(given[19]), (2,), np.float32)
    while True:
        job = _next_job(arguments)
        if job >= rows * count:
            return
        row = job // count
        _attend(
            job % count,
            position[row],
            window,
            heads[row],
            cos[row],
            sin[row],
            table[row],
            keys,
            values,
            given[14],
            given[15],
            of_queries,
            of_keys,
            real[0],
            real[1],
            out[row],
        )


@_inlined
def _attend(
    head: Any,
    at: Any,
    window: Any,
    heads: Any,
    cos: Any,
    sin: Any,
    table: Any,
    keys: Any,
    values: Any,
    keys_at: Any,
    values_at: Any,
    of_queries: Any,
    of_keys: Any,
    scale: Any,
    epsilon: Any,
    out: Any,
) -> None:
    """Keep the key and the value of one head of one row, and attend with the queries of its group.

    The next block is sent for while one is at work: blocks lie anywhere, so the processor cannot guess.
    """
    count, size = keys.shape[1], keys.shape[3]
    group = out.shape[0] // (count * size)
    key_at = (count * group + head) * size
    value_at = key_at + count * size
    written = table[at // _P]
    _turn(heads[key_at : key_at + size], of_keys, epsilon, cos, sin, _ONE, keys[written, head, at % _P])
    values[written, head, at % _P] = heads[value_at : value_at + size]
    queries = np.empty((group, size), np.float32)
    for of_group in range(group):
        query_at = (head * group + of_group) * size
        _turn(heads[query_at : query_at + size], of_queries, epsilon, cos, sin, scale, queries[of_group])
    scores = np.empty(_P, np.float32)
    gathered = np.zeros((group, size), np.float32)
    top = np.full(group, _UNSEEN, np.float32)
    mass = np.zeros(group, np.float32)
    first = max(0, at + 1 - window)
    for place in range(first // _P, at // _P + 1):
        block = table[place]
        next_at = (table[min(place + 1, at // _P)] * count + head) * _P * size * _FLOAT
        hidden, end = max(first - place * _P, 0), min(at + 1 - place * _P, _P)
        for of_group in range(group):
            ahead = size * _FLOAT if of_group == 0 else 0
            _multiply(queries[of_group], keys[block, head], scores, keys_at + next_at, values_at + next_at, ahead)
            for p in range(hidden):
                scores[p] = _UNSEEN
            for p in range(end, _P):
                scores[p] = _UNSEEN
            highest = _exponentiate(scores, top[of_group])
            shrink = _exp2(top[of_group] - highest)
            top[of_group] = highest
            mass[of_group] = mass[of_group] * shrink + _gather(scores, values[block, head], shrink, gathered[of_group])
    for of_group in range(group):
        share = _ONE / mass[of_group]
        target = (head * group + of_group) * size
        for s in range(size):
            out[target + s] = gathered[of_group, s] * share


@_inlined
def _multiply(query: Any, known: Any, scores: Any, next_keys: Any, next_values: Any, ahead: Any) -> None:
    """Products of a query [S] with the keys of a block [P, S]; meanwhile `ahead` bytes a position are sent for."""
    for p in range(_P):
        for line in range(p * ahead, (p + 1) * ahead, _LINE):
            _fetch(next_keys + line)
            _fetch(next_values + line)
        score = _ZERO
        for s in range(query.shape[0]):
            score += query[s] * known[p, s]
        scores[p] = score


@_inlined
def _exponentiate(scores: Any, highest: Any) -> Any:
    """Make scores powers of 2, relative to the highest of these and of those before; gives that."""
    for p in range(_P):
        highest = max(highest, scores[p])
    for p in range(_P):
        scores[p] = _exp2(scores[p] - highest)
    return highest


@_inlined
def _gather(weights: Any, held: Any, shrink: Any, gathered: Any) -> Any:
    """Add the values of a block [P, S] by their weights [P] to what was gathered, shrunk; gives the weights' sum."""
    total = _ZERO
    for p in range(_P):
        total += weights[p]
    for s in range(gathered.shape[0]):
        seen = gathered[s] * shrink
        for p in range(_P):
            seen += weights[p] * held[p, s]
        gathered[s] = seen
    return total
