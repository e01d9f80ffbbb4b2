"""A checkpoint: a directory in the Hugging Face layout that is either complete and proven, or not there.

It is written under a temporary name, every file flushed to disk, the manifest with their digests last, and then
renamed: no manifest, no checkpoint. A publisher killed on the way leaves a temporary directory, which `verify` refuses
and `sweep` removes. Only safetensors and JSON are written or read; nothing here unpickles. What the trainer needs to go
on lies in a directory of its own, which no server reads. Leaves out what digests are of (`training.models.seal`) and
who promotes it.
"""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.models import earlier
from training.models.policy import Policy
from training.models.seal import WEIGHTS, BadCheckpoint, File, content, flush, names, seal_weights, size_of

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
TRAINING_STATE = "trainer/state.safetensors"
_READABLE = (earlier.FORMAT_VERSION, FORMAT_VERSION)
_UNFINISHED = ".unfinished-"  # begins the name of a directory that is still being written


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint holds and where it comes from.

    Example: version 4, made from version 3 by the update that `training` describes.
    """

    version: int  # of the policy, >= 0
    parent_version: int | None  # it was trained from; None for a first one
    fingerprint: str  # `training.models.policy.fingerprint` of the parameters; in format 1 `earlier.fingerprint`
    created: str  # the publisher's timestamp, ISO 8601
    training: dict[str, Any]  # how it was trained: plain JSON, chosen by the caller
    files: dict[str, File]  # path under the directory, with forward slashes -> its content
    format_version: int = FORMAT_VERSION


def publish(
    policy: Policy,
    parent_dir: Path,
    *,
    version: int,
    parent_version: int | None,
    training: Mapping[str, Any],
    created: str,
    training_state: Mapping[str, Tensor] | None = None,
    beside: Callable[[Path], None] | None = None,
) -> Path:
    """Write the policy as `parent_dir/v00000004`, complete or not at all.

    Args:
        policy: its weights, configuration, generation configuration, tokenizer and chat template are written.
        parent_dir: where checkpoints live; made if missing.
        version: of the weights written, >= 0 and above `parent_version`; `policy.version` may still be the parent's.
        parent_version: the version they were trained from, or None.
        training: JSON that says how they were trained.
        created: timestamp, ISO 8601; this room has no clock.
        training_state: optimizer state by name, to ride along.
        beside: writes more files into the directory it is given, sealed like the others.

    Returns:
        The directory, which `from_pretrained` opens.

    Raises:
        ValueError: the version is out of order or already published, a weight is not finite, or `training` is no JSON.

    """
    if version < 0 or (parent_version is not None and version <= parent_version):
        raise ValueError(f"version must be 0 or more and above its parent {parent_version}, got {version}")
    _require_json(training)
    _require_finite(policy)
    final = checkpoint_dir(parent_dir, version)
    if final.exists():
        raise ValueError(f"version {version} is already published at '{final}': checkpoints are never edited")
    parent_dir.mkdir(parents=True, exist_ok=True)
    with _unfinished(parent_dir, version) as directory:
        # Under the names that the live weights have, not those the hub's files had: swaps read them by name.
        policy.model.save_pretrained(directory, save_original_format=False)
        policy.tokenizer.save_pretrained(directory)
        if training_state is not None:
            (directory / TRAINING_STATE).parent.mkdir()
            save_file(
                {name: tensor.contiguous() for name, tensor in training_state.items()}, directory / TRAINING_STATE
            )
        if beside is not None:
            beside(directory)
        written = names(directory, MANIFEST)
        flush(directory / name for name in written)
        files, fingerprint = seal_weights(directory, dict(policy.model.named_parameters()))
        files |= {name: content(directory / name, FORMAT_VERSION) for name in written if name not in files}
        manifest = Manifest(version, parent_version, fingerprint, created, dict(training), files)
        write_manifest(directory, manifest)
        for folder in (directory, *(path for path in directory.rglob("*") if path.is_dir())):
            _flush_directory(folder)
        _rename(directory, final, version)
    _flush_directory(parent_dir)
    return final


def listed(directory: Path) -> Manifest:
    """Check that a checkpoint is finished, of a known format, and has the files it should, of their sizes.

    Nothing but the manifest is read.

    Raises:
        BadCheckpoint: it is not.

    """
    if directory.name.startswith(_UNFINISHED):
        raise BadCheckpoint(f"'{directory}' was never finished: publish again, and sweep its parent")
    manifest = read_manifest(directory)
    there = set(names(directory, MANIFEST))
    missing, extra = sorted(manifest.files.keys() - there), sorted(there - manifest.files.keys())
    if missing or extra:
        raise BadCheckpoint(f"'{directory}' lacks {missing} and has {extra} beside what its manifest lists")
    for name, file in manifest.files.items():
        if size_of(directory / name) != file.size:
            raise _changed(directory / name)
    return manifest


def verify(directory: Path) -> Manifest:
    """Prove a checkpoint: finished, of a known format, every file there and unchanged, and no other.

    Raises:
        BadCheckpoint: it is not.

    """
    manifest = listed(directory)
    for name, file in manifest.files.items():
        if content(directory / name, manifest.format_version) != file:
            raise _changed(directory / name)
    return manifest


def _changed(path: Path) -> BadCheckpoint:
    return BadCheckpoint(f"'{path}' is not what was published: it differs from the manifest")


def load_tensors(directory: Path) -> dict[str, Tensor]:
    """Weights by name as they stand in the files, on the CPU; tied ones once. `verify` first.

    Raises:
        BadCheckpoint: there are no safetensors weights.

    """
    paths = sorted(directory.glob(WEIGHTS))
    if not paths:
        raise BadCheckpoint(f"'{directory}' has no {WEIGHTS}")
    return {name: tensor for path in paths for name, tensor in load_file(path).items()}


def load_training_state(directory: Path) -> dict[str, Tensor]:
    """Optimizer state that was published along, on the CPU; empty when there is none. `verify` first."""
    paths = (directory / TRAINING_STATE, directory / earlier.TRAINING_STATE)
    return next((load_file(path) for path in paths if path.is_file()), {})


def checkpoint_dir(parent_dir: Path, version: int) -> Path:
    """Directory of a published version."""
    return parent_dir / f"v{version:08d}"


def sweep(parent_dir: Path) -> list[Path]:
    """Remove what killed publishers left behind; one that is still writing holds a lock and is left alone.

    Returns:
        The directories removed.

    """
    removed = []
    for directory in sorted(parent_dir.glob(f"{_UNFINISHED}*")):
        with _locked(directory) as free:
            if free:
                shutil.rmtree(directory)
                removed.append(directory)
    return removed


@contextmanager
def _unfinished(parent_dir: Path, version: int) -> Iterator[Path]:
    """Make a locked directory under a temporary name; whatever still has that name at the end is removed."""
    directory = parent_dir / f"{_UNFINISHED}v{version:08d}-{secrets.token_hex(4)}"
    directory.mkdir()
    with _locked(directory) as free:
        if not free:
            raise ValueError(f"'{directory}' was swept while it was being written: publish again")
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _locked(directory: Path) -> Iterator[bool]:
    """Hold the directory's lock, which dies with its process; False when someone else holds it or it is gone."""
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield False
        return
    try:
        free = False
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = directory.exists()
        yield free
    finally:
        os.close(handle)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the marker that makes a directory a checkpoint, with a digest of itself."""
    said = json.loads(json.dumps(asdict(manifest)))  # as it will be read: JSON has string keys and no tuples
    with (directory / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump(said | {"sha256": _self_digest(said)}, file, indent=2, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest and check that it is whole and of a format this release knows."""
    path = directory / MANIFEST
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadCheckpoint(f"'{directory}' has no {MANIFEST}: it is no checkpoint, or was never finished") from None
    except ValueError as error:
        raise BadCheckpoint(f"'{path}' is no JSON: {error}") from error
    if not isinstance(said, dict) or said.get("format_version") not in _READABLE:
        raise BadCheckpoint(f"'{path}' is of an unknown format; this release reads format_version 1 and 2")
    if said.pop("sha256", None) != _self_digest(said):
        raise BadCheckpoint(f"'{path}' is not what was published: its own digest does not match")
    files = {name: File(**listed) for name, listed in said.pop("files").items()}
    return Manifest(files=files, **said)


def _self_digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _require_json(training: Mapping[str, Any]) -> None:
    try:
        json.dumps(training, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"training must be plain JSON without NaN or infinity: {error}") from error


def _require_finite(policy: Policy) -> None:
    """Refuse a broken update: it must not become a policy."""
    for name, parameter in policy.model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise ValueError(f"weight '{name}' is not finite: this policy is broken, keep its parent")


def _rename(directory: Path, final: Path, version: int) -> None:
    """Give the directory its name; the loser of a race for one version is told."""
    try:
        directory.rename(final)
    except OSError as error:
        if final.exists():
            raise ValueError(f"version {version} was published meanwhile at '{final}'") from error
        raise


def _flush_directory(directory: Path) -> None:
    """Flush the names in a directory to disk."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
