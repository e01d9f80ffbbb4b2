"""What a checkpoint's files are known by, and the proof that they are still those.

A safetensors file is known by its header and the digests of its tensors, any other by its bytes. So the weights' own
fingerprint and their files' digests come from one reading, by the writer and by whoever proves them. Checkpoints of
the first format (`training.models.earlier`) are known by their files' bytes. Leaves out the manifest that lists it all
(`training.models.checkpoint`).
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from training.models import earlier
from training.models.shards import Different, Examined, Shard, Stored, examine, opened, sealed
from training.models.tree import each, root

WEIGHTS: Final = "model*.safetensors"  # files of a checkpoint that hold what serves
_TREES: Final = ".safetensors"


class BadCheckpoint(ValueError):
    """A directory is not a complete, untouched checkpoint; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class File:
    """One file as it was published."""

    sha256: str  # hex; of a safetensors file by header and tensors, of any other by its bytes
    size: int  # bytes


def names(directory: Path, manifest: str) -> list[str]:
    """Paths of all files but the manifest, relative, sorted."""
    paths = (path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(path.relative_to(directory).as_posix() for path in paths if path != directory / manifest)


def size_of(path: Path) -> int:
    """Bytes of a file.

    Raises:
        BadCheckpoint: it is a link, a device or anything but a file.

    """
    if path.is_symlink() or not path.is_file():
        raise BadCheckpoint(f"'{path}' is no regular file: a checkpoint holds its files itself")
    return path.stat().st_size


def content(path: Path, format_version: int) -> File:
    """Read a file and say what it is known by.

    Raises:
        BadCheckpoint: it is no file, or no whole one.

    """
    size = size_of(path)
    if path.suffix != _TREES or format_version == earlier.FORMAT_VERSION:
        return File(earlier.file_digest(path), size)
    try:
        shard = opened(path)
        return File(sealed(shard, examine(shard.tensors, all_finite=False).digests), size)
    except ValueError as error:
        raise BadCheckpoint(str(error)) from error


def flush(paths: Iterable[Path]) -> None:
    """Have files' bytes on the disk."""

    def one(path: Path) -> None:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    each(one, paths)


def seal_weights(directory: Path, live: Mapping[str, Tensor]) -> tuple[dict[str, File], str]:
    """Read the weights' files once.

    Args:
        directory: where they were written.
        live: the parameters they were written from.

    Returns:
        the files by name, and the fingerprint of the parameters.

    Raises:
        ValueError: a file does not hold what `live` does.

    """
    shards = weights(directory)
    stored = tensors_of(shards)
    for name, one in live.items():
        if name not in stored or (stored[name].dtype, stored[name].shape) != (one.dtype, tuple(one.shape)):
            raise ValueError(f"the files that were written lack weight '{name}' as it is in memory")
    try:
        found = examine(stored, same_as=live, all_finite=False)  # the publisher has looked at those in memory
    except Different as error:
        raise ValueError(f"weight '{error}' changed while it was written: publish when nothing learns") from error
    files = {name: File(sealed(one, found.digests), size_of(directory / name)) for name, one in shards.items()}
    return files, root({name: found.digests[name] for name in live})


def weights(directory: Path) -> dict[str, Shard]:
    """Read the headers of the files that hold what serves.

    Raises:
        BadCheckpoint: there are none, or they cannot be read.

    """
    paths = sorted(directory.glob(WEIGHTS))
    if not paths:
        raise BadCheckpoint(f"'{directory}' has no {WEIGHTS}")
    try:
        return {path.name: opened(path) for path in paths}
    except ValueError as error:
        raise BadCheckpoint(str(error)) from error


def tensors_of(shards: Mapping[str, Shard]) -> dict[str, Stored]:
    """Put the tensors of several files together."""
    return {name: one for shard in shards.values() for name, one in shard.tensors.items()}


def prove_weights(
    directory: Path, listed: Mapping[str, File], format_version: int, dtypes: Mapping[str, torch.dtype]
) -> Examined:
    """Read the weights' files once, and hold them against what is listed; nothing else of the directory is read.

    Args:
        directory: the checkpoint's.
        listed: its files as they were published.
        format_version: how they are known.
        dtypes: of the places the tensors are for.

    Raises:
        NotFinite: a weight is not a number, or infinite.
        BadCheckpoint: a file is not what was published.

    """
    shards = weights(directory)
    found = examine(tensors_of(shards), dtypes=dtypes)
    by_bytes = (
        dict(zip(shards, each(earlier.file_digest, [directory / name for name in shards]), strict=True))
        if (format_version == earlier.FORMAT_VERSION)
        else {}
    )
    for name, shard in shards.items():
        if name not in listed or (by_bytes.get(name) or sealed(shard, found.digests)) != listed[name].sha256:
            raise BadCheckpoint(f"'{directory / name}' is not what was published: it differs from the manifest")
    return found


def fingerprint_of(directory: Path, found: Examined, parameters: Iterable[str], format_version: int) -> str:
    """Say what a manifest of that format must name, of weights that were examined."""
    if format_version == earlier.FORMAT_VERSION:
        return earlier.fingerprint(sorted(directory.glob(WEIGHTS)), parameters)
    return root({name: found.digests[name] for name in parameters})
