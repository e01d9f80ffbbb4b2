"""New weights, from a checkpoint on disk into the fixed storage of a model, proven at each step.

`read` looks at every byte once, in many threads, and touches no model: what it proves is names and shapes, that the
files are those of the manifest, that every value is finite, and the fingerprint. What it keeps is a sum of each chunk,
so that nothing is held in memory twice. `load` reads once more, now into the model itself, and knows each chunk again
where it lies. Whether they compute is shown by a forward: `canary`, or the lane's own proof, which has one. Runs beside
the serving weights, on a side stream on CUDA. Leaves out when the new weights take over (`app.engine.swap`).
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from app.decoder.anatomy import Anatomy, probe_ids
from training.models.checkpoint import Manifest, listed, read_manifest
from training.models.in_use import reading
from training.models.policy import Policy
from training.models.seal import fingerprint_of, prove_weights, tensors_of, weights
from training.models.shards import Different, Examined, NotFinite, Stored, pour, side_stream
from training.models.tree import root


class StageFailed(RuntimeError):
    """New weights were refused; the old ones go on serving. The message says why."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A checkpoint's weights, proven, and not in memory."""

    version: int
    fingerprint: str  # of the parameters in the model's dtypes: the manifest's where those are the checkpoint's
    origin: str  # the manifest's
    live: str  # what `training.models.policy.fingerprint` says of a model that holds them
    stored: Mapping[str, Stored] = field(repr=False)  # by name, one per place in the model
    sums: Mapping[str, list[int]] = field(repr=False)  # of each chunk, by name, in the model's dtypes


def check(directory: Path, version: int) -> Manifest:
    """Check a checkpoint's manifest, and the names and sizes of its files; their contents are not read.

    Raises:
        StageFailed: it is damaged, incomplete or another version.

    """
    try:
        manifest = listed(directory)
    except (OSError, ValueError) as error:
        raise StageFailed(f"checkpoint {directory.name} does not verify: {error}") from error
    if manifest.version != version:
        raise StageFailed(f"checkpoint {directory.name} holds version {manifest.version}, not {version}")
    return manifest


def named(directory: Path, version: int) -> str | None:
    """Say which fingerprint a checkpoint's manifest names, without looking at its weights.

    None where it cannot be read any more, or is another version's.
    """
    try:
        manifest = read_manifest(directory)
    except (OSError, ValueError):
        return None
    return manifest.fingerprint if manifest.version == version else None


def read(directory: Path, version: int, model: nn.Module) -> Weights:
    """Prove a checkpoint's weights and that they fit a model, without touching it. The trainer's state is not read.

    Raises:
        StageFailed: it does not verify, does not fit the model, or holds values that are not finite.

    """
    with reading(directory):
        manifest = check(directory, version)
        places = _places(model)
        stored = _fitting(directory, model, places)
        found = _examined(directory, manifest, {name: place.dtype for name, place in places.items()})
        parameters = [name for name, _ in model.named_parameters()]
        if fingerprint_of(directory, found, parameters, manifest.format_version) != manifest.fingerprint:
            raise StageFailed(f"checkpoint {directory.name} is refused: its weights are not those its manifest names")
    live = root({name: found.fitted[name] for name in parameters})
    same = all(stored[name].dtype == places[name].dtype for name in parameters)
    return Weights(
        version,
        manifest.fingerprint if same else live,
        manifest.fingerprint,
        live,
        {name: stored[name] for name in places},
        {name: found.sums[name] for name in places},
    )


def load(model: nn.Module, weights: Weights) -> None:
    """Copy weights from their files into a model, and prove that they are there.

    Raises:
        StageFailed: what lies in the model is not what was read; it is of no version now.

    """
    try:
        pour(weights.stored, _places(model), weights.sums)
    except Different as error:
        raise StageFailed(f"version {weights.version} is refused: {error} in memory is not what was read") from error
    except (OSError, ValueError) as error:
        raise StageFailed(f"version {weights.version} cannot be read again: {error}") from error


@contextlib.contextmanager
def exchanged(policy: Policy, weights: Weights) -> Iterator[None]:
    """Put weights into a model in place, for one lane, between two steps; where the block fails the old ones return.

    The old ones are held by the host meanwhile. No tensor is on the device twice.

    Raises:
        StageFailed: what lies in the model is not what was read; the old ones are back.

    """
    places = _places(policy.model)
    held = {name: place.detach().to("cpu", copy=True) for name, place in places.items()}
    done = False
    try:
        load(policy.model, weights)
        yield
        done = True
    finally:
        if not done:
            with torch.no_grad():
                for name, place in places.items():
                    place.copy_(held[name])


def canary(policy: Policy, anatomy: Anatomy, version: int) -> None:
    """Run a forward on weights that have just come.

    Raises:
        StageFailed: its logits are not finite.

    """
    ids_1T = probe_ids(anatomy, 16).to(policy.device)
    with torch.inference_mode(), side_stream(policy.device):
        output: Any = policy.model(input_ids=ids_1T, use_cache=False)
        sound = bool(torch.isfinite(output.logits).all())
    if not sound:
        raise StageFailed(f"version {version} is refused: its logits on the canary prompt are not finite")


def _fitting(directory: Path, model: nn.Module, places: Mapping[str, Tensor]) -> dict[str, Stored]:
    """Find where the tensors of a model lie in a checkpoint, which must have them all and no others."""
    try:
        stored = tensors_of(weights(directory))
    except (OSError, ValueError) as error:
        raise StageFailed(f"checkpoint {directory.name} cannot be read: {error}") from error
    aliases = model.state_dict().keys()
    missing, unknown = sorted(places.keys() - stored.keys()), sorted(stored.keys() - aliases)
    if missing or unknown:
        raise StageFailed(f"checkpoint {directory.name} does not fit: missing {missing[:3]}, unknown {unknown[:3]}")
    for name, place in places.items():
        if stored[name].shape != tuple(place.shape):
            shapes = f"{stored[name].shape}, the model's is {tuple(place.shape)}"
            raise StageFailed(f"checkpoint {directory.name} does not fit: {name} has shape {shapes}")
    return stored


def _examined(directory: Path, manifest: Manifest, dtypes: Mapping[str, torch.dtype]) -> Examined:
    try:
        return prove_weights(directory, manifest.files, manifest.format_version, dtypes)
    except NotFinite as error:
        raise StageFailed(
            f"checkpoint {directory.name} is refused: {error} holds values that are not finite"
        ) from error
    except (OSError, ValueError) as error:
        raise StageFailed(f"checkpoint {directory.name} does not verify: {error}") from error


def _places(model: nn.Module) -> dict[str, Tensor]:
    """Live tensors that a checkpoint fills: parameters, tied ones once, and the buffers that are saved."""
    saved = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in saved}
    return dict(model.named_parameters()) | buffers
