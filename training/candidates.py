"""The K most probable candidates of each row, the same at every width, on every device, whatever stands beside them.

Of equal logits the lower id comes first: bfloat16 logits are full of ties, and a bare top-k breaks them by its own
inner order. Keys of (value, id) as one integer are exact under ties and never ask the host. A large vocabulary is
searched in two stages: first chunks by their maximum, then within the best chunks. On a CPU `training.one_pass` finds
the same candidates.

Axes: B rows, V vocabulary, K candidates, C chunks, c logits per chunk, P logits pooled from the best of them.
"""

import torch
from torch import Tensor

_TWO_STAGE_FROM = 4096  # below this vocabulary one plain top-k is quicker


def top_candidates(logits_BV: Tensor, width: int) -> Tensor:
    """Ids of the largest `width` logits of each row, sorted; of equal logits the lower id comes first.

    The first `width` chunks of neighbours by (maximum, position) hold them.

    Returns:
        int64 [B, min(width, V)].

    """
    batch, vocab = logits_BV.shape
    width = min(width, vocab)
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


def _chunk(vocab: int, width: int) -> int:
    """Logits per chunk for which both stages cost about the same; 0 where one stage is better."""
    chunk: int = 1 << (vocab // width).bit_length() // 2
    return chunk if vocab >= _TWO_STAGE_FROM and vocab > 2 * chunk * width else 0


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
