"""Tensors in safetensors files, looked at and copied chunk by chunk in many threads, without a second copy in memory.

`examine` reads every byte once: leaves of the digest, whether the numbers are finite, and the sum by which `pour` knows
each chunk again once it lies in the model. Files are read by `pread` into memory that is there already, so one that is
cut short meanwhile is an error and not a signal. The header is read here, because only it says where a tensor lies.
Leaves out what the digests should be (`training.models.checkpoint`).
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from training.models.tree import (
    CHUNK,
    Bytes,
    Piece,
    all_known_by,
    bytes_of,
    digest,
    each,
    finite,
    gathered,
    known_by,
    same,
)
from training.models.tree import leaf as leaf_of
from training.models.tree import pieces as cut_up

_MOST_HEADER: Final = 100 << 20  # bytes; safetensors' own bound
_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class NotFinite(ValueError):
    """A tensor holds numbers that are none, or infinite; the message is its name."""


class Different(ValueError):
    """A tensor in a file is not the one in memory; the message is its name."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor lies in a file."""

    path: Path
    start: int  # byte of the file
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.elements * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Shard:
    """A file and what is in it."""

    header: bytes  # as it stands in the file
    tensors: dict[str, Stored]  # by name, in the order of their bytes


@dataclass(frozen=True, slots=True)
class Examined:
    """What one look at stored tensors found, by name."""

    digests: dict[str, bytes]  # of what the files hold
    fitted: dict[str, bytes]  # of the same in the model's dtypes
    sums: dict[str, list[int]]  # of each chunk in the model's dtypes


def opened(path: Path) -> Shard:
    """Read a file's header.

    Raises:
        ValueError: it is no whole safetensors file, or holds a dtype that no policy has.
        OSError: it cannot be read.

    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, _MOST_HEADER):
            raise ValueError(f"'{path}' is no safetensors file: its header would be {length} bytes long")
        header = file.read(length)
    try:
        listed = json.loads(header)
        listed.pop("__metadata__", None)
        entries = sorted((*one["data_offsets"], name, one["dtype"], one["shape"]) for name, one in listed.items())
        tensors = {
            name: Stored(path, 8 + length + first, _DTYPES[dtype], tuple(shape))
            for first, _, name, dtype, shape in entries
        }
        sizes = [one.size for one in tensors.values()]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"'{path}' has a header that cannot be read: {error!r}") from error
    end = 0
    for (first, last, name, *_), size_of in zip(entries, sizes, strict=True):
        if first != end or last - first != size_of:
            raise ValueError(f"'{path}' has a header that cannot be: {name} lies from {first} to {last}")
        end = last
    if 8 + length + end != size:
        raise ValueError(f"'{path}' has {size} bytes, and {8 + length + end} by its header")
    return Shard(header, tensors)


def sealed(shard: Shard, digests: Mapping[str, bytes]) -> str:
    """SHA-256 (hex) of a file by its header and the digests of its tensors."""
    return hashlib.sha256(shard.header + b"".join(digests[name] for name in shard.tensors)).hexdigest()


def examine(
    stored: Mapping[str, Stored],
    *,
    dtypes: Mapping[str, torch.dtype] | None = None,
    same_as: Mapping[str, Tensor] | None = None,
    all_finite: bool = True,
) -> Examined:
    """Look at tensors in files, each byte once.

    Args:
        stored: where they lie.
        dtypes: of the places they are for, by name; else their own.
        same_as: tensors that must have these bytes, by name.
        all_finite: whether numbers must be finite.

    Raises:
        NotFinite: some are not.
        Different: what the file holds is not what `same_as` does.
        ValueError: a file ended early.

    """
    wanted = {name: (dtypes or {}).get(name, one.dtype) for name, one in stored.items()}
    cut = cut_up({name: one.elements for name, one in stored.items()})
    with _descriptors(stored.values()) as files:

        def look(piece: Piece) -> list[tuple[bytes, bytes, int]]:
            one, dtype = stored[piece.name], wanted[piece.name]
            buffer = np.empty(min(piece.count, next(piece.chunks())[1]) * one.dtype.itemsize, np.uint8)
            found = []
            for first, count in piece.chunks():
                raw = buffer[: count * one.dtype.itemsize]
                _fill(files[one.path], one, first, raw)
                if all_finite and not finite(raw, one.dtype):
                    raise NotFinite(piece.name)
                if same_as is not None and piece.name in same_as:
                    _require_same(raw, same_as[piece.name], piece.name, first, count)
                leaf = leaf_of(raw)
                if dtype == one.dtype:
                    found.append((leaf, leaf, known_by(raw)))
                else:
                    fitted = _as(raw, one.dtype).to(dtype).view(torch.uint8).numpy()
                    found.append((leaf, leaf_of(fitted), known_by(fitted)))
            return found

        found = gathered(cut, each(look, cut))
    parts = {name: tuple(zip(*found[name], strict=True)) if name in found else ((), (), ()) for name in stored}
    return Examined(
        {name: digest(name, one.dtype, one.shape, parts[name][0]) for name, one in stored.items()},
        {name: digest(name, wanted[name], one.shape, parts[name][1]) for name, one in stored.items()},
        {name: list(parts[name][2]) for name in stored},
    )


def read_all(stored: Mapping[str, Stored]) -> None:
    """Read every byte once and do nothing with it: what all else is measured against."""
    with _descriptors(stored.values()) as files:

        def read(piece: Piece) -> None:
            one = stored[piece.name]
            buffer = np.empty(next(piece.chunks())[1] * one.dtype.itemsize, np.uint8)
            for first, count in piece.chunks():
                _fill(files[one.path], one, first, buffer[: count * one.dtype.itemsize])

        each(read, cut_up({name: one.elements for name, one in stored.items()}))


@torch.no_grad()
def pour(stored: Mapping[str, Stored], places: Mapping[str, Tensor], sums: Mapping[str, Sequence[int]]) -> None:
    """Copy tensors from files into memory, and know each chunk again where it lies then.

    On a CPU the file is read into the place itself; on a GPU it goes through pinned memory, on a stream beside others.

    Args:
        stored: where they lie; what has no place is left out.
        places: of the same shapes; their dtypes may differ.
        sums: of each chunk, from `examine` with the dtypes of the places.

    Raises:
        Different: a chunk is not the one that was looked at.
        ValueError: a file ended early.

    """
    aside = {name: torch.empty(place.shape, dtype=place.dtype) for name, place in places.items() if _scattered(place)}
    targets = {name: aside.get(name, place).detach().view(-1) for name, place in places.items()}
    cut = cut_up({name: stored[name].elements for name in places})
    with _descriptors(stored[name] for name in places) as files:
        each(lambda piece: _pour_piece(piece, stored[piece.name], targets[piece.name], files, sums[piece.name]), cut)
    for name, tensor in aside.items():
        places[name].copy_(tensor)
    for name, target in targets.items():
        if target.device.type != "cpu" and all_known_by(target) != list(sums[name]):
            raise Different(name)


def _pour_piece(piece: Piece, one: Stored, target: Tensor, files: Mapping[Path, int], sums: Sequence[int]) -> None:
    """Fill a part of a place; on a CPU each chunk is known again while it is in the processor's cache."""
    part = target[piece.first : piece.first + piece.count]
    if target.device.type != "cpu":
        host = torch.empty(piece.count * one.dtype.itemsize, dtype=torch.uint8, pin_memory=target.is_cuda)
        _fill(files[one.path], one, piece.first, host.numpy())
        with side_stream(target.device):
            part.copy_(host.view(one.dtype), non_blocking=True)
        return
    for number, (first, count) in enumerate(piece.chunks(), piece.first // CHUNK):
        place = target[first : first + count]
        if place.dtype == one.dtype:
            _fill(files[one.path], one, first, place.view(torch.uint8).numpy())
        else:
            raw = np.empty(count * one.dtype.itemsize, np.uint8)
            _fill(files[one.path], one, first, raw)
            place.copy_(_as(raw, one.dtype))
        if known_by(place.view(torch.uint8).numpy()) != sums[number]:
            raise Different(piece.name)


@contextlib.contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """Run on a CUDA stream beside the serving one, done when the block ends; nothing special on a CPU."""
    if device.type != "cuda":
        yield
        return
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()


@contextlib.contextmanager
def _descriptors(stored: Iterable[Stored]) -> Iterator[dict[Path, int]]:
    """Open each file once, for threads that read it at places of their own."""
    files: dict[Path, int] = {}
    try:
        for path in {one.path for one in stored}:
            files[path] = os.open(path, os.O_RDONLY)
        yield files
    finally:
        for file in files.values():
            os.close(file)


def _fill(file: int, one: Stored, first: int, into: Bytes) -> None:
    """Read what lies from an element on."""
    at, view = one.start + first * one.dtype.itemsize, into.data
    while view:
        read = os.preadv(file, [view], at)
        if not read:
            raise ValueError(f"'{one.path}' ended early: somebody cut it short")
        at, view = at + read, view[read:]


def _as(raw: Bytes, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(raw).view(dtype)


def _require_same(raw: Bytes, tensor: Tensor, name: str, first: int, count: int) -> None:
    if not same(raw, bytes_of(tensor, first, count)):
        raise Different(name)


def _scattered(place: Tensor) -> bool:
    """Whether a place is no single stretch of memory, so that it has to be filled as a whole."""
    return not place.is_contiguous()
