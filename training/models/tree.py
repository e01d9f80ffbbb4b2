"""The digest of weights as a tree, so that many threads can take it and any part of it can be proven alone.

A tensor is cut into chunks of `CHUNK` elements; a leaf is the SHA-256 of a chunk's bytes, a tensor's digest that of its
name, dtype, shape and leaves, the root that of the tensors' digests by name. Chunks are counted in elements, so that
one tensor has as many in every dtype. Beside the leaf of each chunk goes what is cheap while it lies in the processor's
cache: whether its numbers are finite, and a sum of its words by which it is known again elsewhere. numpy and hashlib
let other threads run meanwhile; torch's own operations would make a team of threads for each of them. Leaves out files
(`training.models.shards`).
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import torch
from torch import Tensor

CHUNK: Final = 1 << 18  # elements of a chunk: 1 MiB in float32, which a core's own cache holds
_PIECE: Final = 16  # chunks that a thread does at a time
_MOST: Final = 16  # threads; memory is not read faster by more

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
T = TypeVar("T")
R = TypeVar("R")

_SIGNED: Final[Mapping[torch.dtype, tuple[type, int]]] = {  # integers of its size, and infinity's bits
    torch.float64: (np.int64, 0x7FF0_0000_0000_0000),
    torch.float32: (np.int32, 0x7F80_0000),
    torch.bfloat16: (np.int16, 0x7F80),
    torch.float16: (np.int16, 0x7C00),
}
_WORDS: Final[tuple[tuple[int, type, torch.dtype], ...]] = (
    (8, np.int64, torch.int64),
    (4, np.int32, torch.int32),
    (2, np.int16, torch.int16),
    (1, np.uint8, torch.uint8),
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a tensor that one thread looks at."""

    name: str  # of the tensor
    first: int  # element, a multiple of CHUNK
    count: int  # elements, >= 1

    def chunks(self) -> Iterator[tuple[int, int]]:
        """First element and number of elements of each chunk."""
        for first in range(self.first, self.first + self.count, CHUNK):
            yield first, min(CHUNK, self.first + self.count - first)


def pieces(sizes: Mapping[str, int]) -> list[Piece]:
    """Cut tensors of so many elements, in their order; one without elements has no piece."""
    whole = CHUNK * _PIECE
    return [
        Piece(name, first, min(whole, size - first)) for name, size in sizes.items() for first in range(0, size, whole)
    ]


def each(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Do it for every item, in as many threads as there are cores; they end with it."""
    with ThreadPoolExecutor(min(_MOST, len(os.sched_getaffinity(0))), thread_name_prefix="tree") as pool:
        return list(pool.map(work, items))


def leaf(raw: Bytes) -> bytes:
    """Digest of a chunk."""
    return hashlib.sha256(raw.data).digest()


def digest(name: str, dtype: torch.dtype, shape: Sequence[int], leaves: Iterable[bytes]) -> bytes:
    """Digest of a tensor, from those of its chunks."""
    sha = hashlib.sha256(f"{name}|{dtype}|{tuple(shape)}\n".encode())
    for one in leaves:
        sha.update(one)
    return sha.digest()


def root(digests: Mapping[str, bytes]) -> str:
    """SHA-256 (hex) of tensors by name, from their digests."""
    return hashlib.sha256(b"".join(digests[name] for name in sorted(digests))).hexdigest()


def root_of(held: Mapping[str, Tensor]) -> str:
    """Root of tensors as they lie in memory, by name."""
    cut = pieces({name: one.numel() for name, one in held.items()})
    found = each(lambda piece: [leaf(bytes_of(held[piece.name], *chunk)) for chunk in piece.chunks()], cut)
    leaves = gathered(cut, found)
    return root({name: digest(name, one.dtype, one.shape, leaves.get(name, ())) for name, one in held.items()})


def gathered(cut: Sequence[Piece], found: Sequence[Iterable[T]]) -> dict[str, list[T]]:
    """Put what was found of each chunk together again, by tensor."""
    whole: dict[str, list[T]] = {}
    for piece, part in zip(cut, found, strict=True):
        whole.setdefault(piece.name, []).extend(part)
    return whole


def bytes_of(tensor: Tensor, first: int, count: int) -> Bytes:
    """Bytes of a chunk of a tensor; its own where it lies on the CPU in one stretch, else copied."""
    flat = tensor.detach().contiguous().view(-1)[first : first + count].cpu()
    raw: Bytes = flat.view(torch.uint8).numpy()
    return raw


def finite(raw: Bytes, dtype: torch.dtype) -> bool:
    """Whether no number of a chunk is infinite or none; integers always are.

    By their bits: floats of one sign have the order of their integers, and infinity comes before what is none.
    """
    kind = _SIGNED.get(dtype)
    if kind is None or not raw.size:
        return True
    signed, infinity = kind
    words: np.ndarray[Any, Any] = raw.view(signed)
    bits = 8 * words.itemsize
    unsigned = words.view(f"u{words.itemsize}")
    return int(words.max()) < infinity and int(unsigned.max()) < infinity + (1 << (bits - 1))


def same(raw: Bytes, other: Bytes) -> bool:
    """Whether two chunks have the same bytes."""
    _, word, _ = _word_of(raw.nbytes)
    return bool((raw.view(word) == other.view(word)).all())


def known_by(raw: Bytes) -> int:
    """Sum of a chunk's words: a copy that has another one is none."""
    _, word, _ = _word_of(raw.nbytes)
    return int(raw.view(word).sum(dtype=np.int64))


@torch.no_grad()
def all_known_by(tensor: Tensor) -> list[int]:
    """Do the same as `known_by`, of each chunk of a tensor, where it lies."""
    flat = tensor.detach().contiguous().view(-1)
    whole = flat.numel() // CHUNK * CHUNK
    sums = [flat[:whole].view(torch.int64).view(whole // CHUNK, -1).sum(1)] if whole else []
    if whole < flat.numel():
        rest = flat[whole:].view(torch.uint8)
        _, _, word = _word_of(rest.numel())
        sums.append(rest.view(word).sum(dtype=torch.int64)[None])
    return [int(one) for part in sums for one in part.tolist()]


def _word_of(size: int) -> tuple[int, type, torch.dtype]:
    """Find the largest word that so many bytes are a multiple of."""
    return next(word for word in _WORDS if size % word[0] == 0)
