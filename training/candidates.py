"""The K most probable candidates of each row, the same at every width, on every device, whatever stands beside them.

Of equal logits the lower id comes first: bfloat16 logits are full of ties, and a bare top-k breaks them by its own
inner order. Two ways lead there. Keys of (value, id) as one integer are exact under ties and never ask the host: the
way of a GPU, and of low precision. On a CPU full-precision ties are rare: a bare top-k is quicker, and one candidate
more than asked for shows whether there was a tie, in which case the keys decide after all.

Both ways search a large vocabulary in stages: first chunks by their maximum, then within the best chunks.

Axes: B rows, V vocabulary, K candidates, C chunks, c logits per chunk, W chunks kept, P logits pooled from them.
"""

import torch
from torch import Tensor

_TWO_STAGE_FROM = 4096  # keys: below this vocabulary one plain top-k is quicker
_CHUNK = 8  # bare: logits per chunk at each stage
_ONE_STAGE = 16  # bare: up to this many times the width, one plain top-k is quicker


def top_candidates(logits_BV: Tensor, width: int) -> Tensor:
    """Ids of the largest `width` logits of each row, sorted; of equal logits the lower id comes first.

    Returns:
        int64 [B, min(width, V)].

    """
    if logits_BV.device.type == "cpu" and logits_BV.dtype != torch.bfloat16 and width < logits_BV.shape[1]:
        top_BK, ids_BK = _bare(logits_BV, width + 1)
        if not bool((top_BK[:, 1:] == top_BK[:, :-1]).any()):
            return ids_BK[:, :width]
    return _keyed(logits_BV, min(width, logits_BV.shape[1]))


def _chunk(vocab: int, width: int) -> int:
    """Logits per chunk for which both stages of the keys cost about the same; 0 where one stage is better."""
    chunk: int = 1 << (vocab // width).bit_length() // 2
    return chunk if vocab >= _TWO_STAGE_FROM and vocab > 2 * chunk * width else 0


def _bare(logits_BV: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Largest `width` logits and their ids, ties in any order.

    The best `width` chunks hold `width` largest logits (a tie with one left out shows as a tie among those found), and
    the best chunks are found in the same way from the chunks' maxima: a selection costs by the numbers it looks at,
    and so sees few at each stage. Chunk j holds the ids j, j + C, j + 2C, ...: maxima over an outer axis are several
    times quicker.
    """
    batch, vocab = logits_BV.shape
    if vocab <= _ONE_STAGE * width:
        return logits_BV.topk(width, dim=-1)
    chunks, whole = vocab // _CHUNK, vocab - vocab % _CHUNK
    logits_BcC = logits_BV[:, :whole].view(batch, _CHUNK, chunks)
    _, best_BW = _bare(logits_BcC.amax(1), width)
    pooled_BP = logits_BcC.gather(2, best_BW[:, None].expand(-1, _CHUNK, -1)).view(batch, -1)
    if whole < vocab:
        pooled_BP = torch.cat([pooled_BP, logits_BV[:, whole:]], dim=-1)
    top_BK, place_BK = pooled_BP.topk(width, dim=-1)
    ids_BK = best_BW.gather(1, place_BK % width).add_(place_BK // width, alpha=chunks)
    if whole < vocab:
        ids_BK = torch.where(place_BK < _CHUNK * width, ids_BK, place_BK + (whole - _CHUNK * width))
    return top_BK, ids_BK


def _keyed(logits_BV: Tensor, width: int) -> Tensor:
    """Ids of the first `width` by (value falling, id rising).

    The first `width` chunks of neighbours by (maximum, position) hold them.
    """
    batch, vocab = logits_BV.shape
    chunk = _chunk(vocab, width)
    if not chunk or logits_BV.dtype == torch.float64:
        return _first(logits_BV, torch.arange(vocab, device=logits_BV.device), width)
    whole = vocab - vocab % chunk
    logits_BCc = logits_BV[:, :whole].view(batch, -1, chunk)
    number_C = torch.arange(logits_BCc.shape[1], device=logits_BV.device)
    best_BW1 = _first(logits_BCc.amax(-1), number_C, width)[:, :, None]
    pooled_BP = logits_BCc.gather(1, best_BW1.expand(-1, -1, chunk)).view(batch, -1)
    ids_BP = (best_BW1 * chunk + torch.arange(chunk, device=logits_BV.device)).view(batch, -1)
    if whole < vocab:
        rest_R = torch.arange(whole, vocab, device=logits_BV.device)
        pooled_BP = torch.cat([pooled_BP, logits_BV[:, whole:]], dim=-1)
        ids_BP = torch.cat([ids_BP, rest_R.expand(batch, -1)], dim=-1)
    return ids_BP.gather(1, _first(pooled_BP, ids_BP, width))


def _first(values_BN: Tensor, ids_BN: Tensor, count: int) -> Tensor:
    """Positions of the first `count` by (value falling, id rising), as one integer key: value above, id below.

    Float32 bits sort like integers once a negative's are flipped. Float64 leaves no room for the id and is sorted
    stably, which asks its ids to rise with position.
    """
    if values_BN.dtype == torch.float64:
        return values_BN.sort(dim=-1, descending=True, stable=True).indices[:, :count]
    bits_BN = (values_BN.float() + 0.0).view(torch.int32)  # adding 0 makes one zero of the two
    rising_BN = (bits_BN ^ ((bits_BN >> 31) & 0x7FFFFFFF)).to(torch.int64)
    return (rising_BN << 32).sub_(ids_BN).topk(count, dim=-1).indices
