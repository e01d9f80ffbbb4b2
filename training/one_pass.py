"""The draw of `training.latent` for a CPU, compiled: one walk over each row's logits, nothing of size V written.

On a CPU the draw of a small model is fifty operations, each dearer to start than to run, and that of a large one is
three passes over the vocabulary. Here a row is selected, normalised, filtered and perturbed while its logits are in
the cache. The definition stays `training.latent.draw_by_parts`, which is also the way of a GPU and of float64;
tests/training/test_one_pass.py holds the two together: same candidates, same noise, the same numbers but for rounding.
Where numba cannot be imported nothing fits, and the definition draws.

Candidates come in their order of ids, and a later one must be larger to get in: so of equal logits the lower id is
first, as everywhere. A logit that is not a number makes its row's log-probabilities NaN, and nothing else.

Axes: B rows, V vocabulary, K candidates, N blocks of C logits.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from training import noise

try:
    from numba import njit
except ImportError:  # the GPU script runs where there is none
    _COMPILES = False
else:
    _COMPILES = True

F = TypeVar("F", bound=Callable[..., Any])

_C = 64  # logits compared at once: the compiler makes vectors of them
_SETS, _SHALLOWEST, _DEEPEST = 128, 8, 128  # sets that bound the candidates from below, and logits in each
_GOLDEN, _M1, _M2 = (np.uint64(constant % 2**64) for constant in (noise.GOLDEN, noise.MIX_1, noise.MIX_2))
_30, _27, _31, _UNUSED_BITS = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(64 - noise.UNIFORM_BITS)
_UNIT = 2.0**-noise.UNIFORM_BITS
_NEG_INF = np.float32(-np.inf)

# 2^x is 2^n 2^f with n the nearest integer, and 2^f on [-1/2, 1/2] a polynomial (Cephes' exp2f): error below 1e-7.
_LOWEST, _LOG2_E, _ONE = np.float32(-126), np.float32(math.log2(math.e)), np.float32(1)
_P5, _P4, _P3 = np.float32(1.535336188319500e-4), np.float32(1.339887440266574e-3), np.float32(9.618437357674640e-3)
_P2, _P1, _P0 = np.float32(5.550332471162809e-2), np.float32(2.402264791363012e-1), np.float32(6.931472028550421e-1)
_EXPONENT_BIAS, _MANTISSA_BITS = np.int32(127), np.int32(23)

_SIGNATURE = (
    "void(float32[:, ::1], float32[:, :], int64[:, :], float32[:, :], float32[:, :], int64[:, :], int64[:, :],"
    " int64[:, ::1], float32[:, ::1])"
)


def fits(logits_BV: Tensor) -> bool:
    """Whether logits are drawn from here: on a CPU with numba, and not in a precision that float32 would lose."""
    return _COMPILES and logits_BV.device.type == "cpu" and logits_BV.dtype != torch.float64


def draw_rows(
    logits_BV: Tensor,
    scale_B1: Tensor,
    top_k_B1: Tensor,
    nucleus_B1: Tensor,
    floor_B1: Tensor,
    stream_B1: Tensor,
    step_B1: Tensor,
    width: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Draw one step of every row.

    Args:
        logits_BV: [B, V], for which `fits` says yes.
        scale_B1: as the four that follow a field of `training.latent.Controls`.
        top_k_B1: int64 [B, 1].
        nucleus_B1: float32 [B, 1].
        floor_B1: float32 [B, 1].
        stream_B1: int64 [B, 1].
        step_B1: int64 [B, 1], of each answer, 0-based.
        width: K, where the vocabulary has as many.

    Returns:
        the first five fields of `training.latent.Drawn`, in their order.

    """
    logits_BV = logits_BV.float().contiguous()
    batch, width = logits_BV.shape[0], min(width, logits_BV.shape[1])
    whole_BX, real_BX = np.empty((batch, width + 1), np.int64), np.empty((batch, 2 * width + 3), np.float32)
    settings = (scale_B1, top_k_B1, nucleus_B1, floor_B1, stream_B1, step_B1)
    compiled_draw()(logits_BV.numpy(force=True), *(one_B1.numpy() for one_B1 in settings), whole_BX, real_BX)
    ids_BK, token_B1 = torch.from_numpy(whole_BX).split_with_sizes((width, 1), 1)
    logprobs_BK, scores_BK, told_B3 = torch.from_numpy(real_BX).split_with_sizes((width, width, 3), 1)
    return ids_BK, logprobs_BK, scores_BK, token_B1, told_B3


@cache
def compiled_draw() -> Callable[..., None]:
    """Compile the draw, once per process: seconds, or a moment where an earlier process could keep what it compiled."""
    try:
        return _compiled(_draw, _SIGNATURE, cache=True)
    except RuntimeError:  # no directory to keep it in can be written; see NUMBA_CACHE_DIR
        return _compiled(_draw, _SIGNATURE)


def _compiled(function: F, *signature: Any, **options: Any) -> F:
    """Compile a function that takes numbers and arrays; without a signature, when it is first called."""
    if not _COMPILES:
        return function  # never called: nothing `fits`
    compiler = njit(*signature, nogil=True, error_model="numpy", **options)
    return cast("F", compiler(function))


def _vectored(function: F) -> F:
    """Compile a function whose products may be fused with sums, and whose sums may be taken in any order."""
    return _compiled(function, fastmath={"contract", "reassoc"})


@_vectored
def _exp2(x: np.float32) -> np.float32:
    """2^x of a float32 at or below 0; NaN stays."""
    x = _LOWEST if x < _LOWEST else x  # noqa: FURB136, a NaN must stay
    power: np.float32 = np.rint(x)
    rest = x - power
    fraction = (((((_P5 * rest + _P4) * rest + _P3) * rest + _P2) * rest + _P1) * rest + _P0) * rest + _ONE
    scale: np.float32 = np.int32((np.int32(power) + _EXPONENT_BIAS) << _MANTISSA_BITS).view(np.float32)
    return fraction * scale


@_vectored
def _total(logits_V: Any, highest: np.float32, scale: np.float32) -> float:
    """Sum of e^(scale * (logit - highest)) over the vocabulary."""
    scale *= _LOG2_E
    blocks = logits_V.shape[0] // _C
    logits_NC = logits_V[: blocks * _C].reshape(blocks, _C)
    total = np.float64(0)
    for block in range(blocks):
        part = np.float32(0)
        for at in range(_C):
            part += _exp2((logits_NC[block, at] - highest) * scale)
        total += np.float64(part)
    for token in range(blocks * _C, logits_V.shape[0]):
        total += np.float64(_exp2((logits_V[token] - highest) * scale))
    return total


@_compiled
def _insert(values_K: Any, ids_K: Any, place: int, value: np.float32, token: int) -> None:
    """Put a candidate behind all that are as large, and those below it one place on, up to `place`."""
    while place > 0 and values_K[place - 1] < value:
        values_K[place], ids_K[place] = values_K[place - 1], ids_K[place - 1]
        place -= 1
    values_K[place], ids_K[place] = value, token


@_compiled
def _select(logits_V: Any, values_K: Any, ids_K: Any) -> None:
    """Find the largest logits, sorted."""
    width = values_K.shape[0]
    floor = _floor(logits_V, values_K, ids_K)
    if floor > _NEG_INF:
        values_K[:] = np.nextafter(floor, _NEG_INF)  # below every logit that is to be found, and there are enough
        _scan(logits_V, 0, values_K, ids_K)
    else:
        _start(logits_V, values_K, ids_K)
        _scan(logits_V, width, values_K, ids_K)


@_compiled
def _floor(logits_V: Any, values_K: Any, ids_K: Any) -> np.float32:
    """Bound the smallest logit to be found from below by the largest of disjoint sets; -inf where not worth it."""
    width, deep = values_K.shape[0], min(logits_V.shape[0] // _SETS, _DEEPEST)
    if deep < _SHALLOWEST or 4 * width > _SETS:
        return _NEG_INF
    highs_S = logits_V[:_SETS].copy()
    for start in range(_SETS, deep * _SETS, _SETS):
        logits_S = logits_V[start : start + _SETS]
        for at in range(_SETS):
            highs_S[at] = logits_S[at] if logits_S[at] > highs_S[at] else highs_S[at]  # noqa: FURB136, a vector's max
    _start(highs_S, values_K, ids_K)
    _scan(highs_S, width, values_K, ids_K)
    floor: np.float32 = values_K[width - 1]
    return floor


@_compiled
def _start(logits_V: Any, values_K: Any, ids_K: Any) -> None:
    """Take the first logits."""
    for token in range(values_K.shape[0]):
        _insert(values_K, ids_K, token, logits_V[token], token)


@_compiled
def _scan(logits_V: Any, start: int, values_K: Any, ids_K: Any) -> None:
    """Insert what is larger than the smallest found so far, from `start` on."""
    last, blocks = values_K.shape[0] - 1, (logits_V.shape[0] - start) // _C
    logits_NC = logits_V[start : start + blocks * _C].reshape(blocks, _C)
    for block in range(blocks):
        above, floor = np.uint32(0), values_K[last]
        for at in range(_C):
            above += np.uint32(logits_NC[block, at] > floor)
        if above:
            for at in range(_C):
                if logits_NC[block, at] > values_K[last]:
                    _insert(values_K, ids_K, last, logits_NC[block, at], start + block * _C + at)
    for token in range(start + blocks * _C, logits_V.shape[0]):
        if logits_V[token] > values_K[last]:
            _insert(values_K, ids_K, last, logits_V[token], token)


@_compiled
def _filter(
    values_K: Any, highest: np.float32, scale: np.float32, top_k: int, nucleus: np.float32, floor: np.float32
) -> float:
    """Turn the largest logits into log pi~; the log of what they were divided by, relative to the largest."""
    width = values_K.shape[0]
    top_k, total = min(top_k, width), 0.0
    for place in range(top_k):
        values_K[place] = (values_K[place] - highest) * scale
        total += math.exp(values_K[place])
    kept, before = 0, 0.0
    while kept < top_k and (kept == 0 or (before < nucleus * total and values_K[kept] >= floor)):
        before += math.exp(values_K[kept])
        kept += 1
    log_kept = math.log(before)
    for place in range(kept):
        values_K[place] -= log_kept
    values_K[kept:] = _NEG_INF
    return log_kept


@_compiled
def _perturb(logprobs_K: Any, ids_K: Any, key: np.uint64, scores_K: Any) -> int:
    """Add the noise; the place of the largest score."""
    best = 0
    for place in range(logprobs_K.shape[0]):
        if logprobs_K[place] == _NEG_INF:
            scores_K[place] = _NEG_INF
            continue
        scores_K[place] = logprobs_K[place] + np.float32(_gumbel(key, ids_K[place]))
        if scores_K[place] > scores_K[best]:
            best = place
    return best


@_compiled
def _mix(bits: np.uint64) -> np.uint64:
    """Finaliser of `training.noise`."""
    bits = ((bits >> _30) ^ bits) * _M1
    bits = ((bits >> _27) ^ bits) * _M2
    return (bits >> _31) ^ bits


@_compiled
def _key(stream: int, step: int) -> np.uint64:
    """`training.noise.step_key`."""
    return _mix(np.uint64(stream) + np.uint64(step + 1) * _GOLDEN)


@_compiled
def _gumbel(key: np.uint64, token: int) -> float:
    """`training.noise.gumbel`."""
    bits = _mix(key + _GOLDEN + np.uint64(token) * _GOLDEN) >> _UNUSED_BITS
    return -math.log(-math.log((np.float64(np.int64(bits)) + 0.5) * _UNIT))


def _draw(
    logits_BV: Any,
    scale_B1: Any,
    top_k_B1: Any,
    nucleus_B1: Any,
    floor_B1: Any,
    stream_B1: Any,
    step_B1: Any,
    whole_BX: Any,
    real_BX: Any,
) -> None:
    """Fill the last two arrays: candidates and the token; log pi~, the scores, and the three numbers that are told."""
    width = whole_BX.shape[1] - 1
    for row in range(logits_BV.shape[0]):
        logits_V, ids_K = logits_BV[row], whole_BX[row, :width]
        logprobs_K, scores_K, told_3 = real_BX[row, :width], real_BX[row, width : 2 * width], real_BX[row, 2 * width :]
        _select(logits_V, logprobs_K, ids_K)  # the largest logits, which become log pi~
        highest, scale = logprobs_K[0], scale_B1[row, 0]
        log_total = math.log(_total(logits_V, highest, scale))
        log_kept = _filter(logprobs_K, highest, scale, top_k_B1[row, 0], nucleus_B1[row, 0], floor_B1[row, 0])
        best = _perturb(logprobs_K, ids_K, _key(stream_B1[row, 0], step_B1[row, 0]), scores_K)
        token = ids_K[best]
        whole_BX[row, width] = token
        told_3[0], told_3[1], told_3[2] = token, logprobs_K[best] + log_kept - log_total, log_kept - log_total
