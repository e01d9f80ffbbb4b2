"""New weights, from a checkpoint on disk into the fixed storage of a model, proven at each step.

Proven are: the files (SHA-256 each, against the manifest), names and shapes, that every value is finite, the
fingerprint of what was read, that it lies in the model afterwards, and a canary forward. Runs beside the serving
weights, on a side stream on CUDA. Leaves out when the new weights take over (`app.engine.swap`).
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from app.decoder.anatomy import Anatomy, probe_ids
from training.models.checkpoint import Manifest, load_tensors, read_manifest, verify
from training.models.in_use import reading
from training.models.policy import Policy, digest


class StageFailed(RuntimeError):
    """New weights were refused; the old ones go on serving. The message says why."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Verified weights on the host."""

    version: int
    fingerprint: str  # of the parameters in the model's dtypes: the manifest's where those are the checkpoint's
    origin: str  # the manifest's
    tensors: dict[str, Tensor]  # by name, one per place in the model, in its dtype


def check(directory: Path, version: int) -> Manifest:
    """Verify a checkpoint's files and that it is the version asked for.

    Raises:
        StageFailed: it is damaged, incomplete or another version.

    """
    try:
        manifest = verify(directory)
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
    """Read a checkpoint for a model, without touching the model.

    Raises:
        StageFailed: it does not verify, does not fit the model, or holds values that are not finite.

    """
    with reading(directory):
        manifest = check(directory, version)
        try:
            tensors = load_tensors(directory)
        except (OSError, ValueError, SafetensorError) as error:
            raise StageFailed(f"checkpoint {directory.name} cannot be read: {error}") from error
    places = _places(model)
    aliases = model.state_dict().keys()
    missing, unknown = sorted(places.keys() - tensors.keys()), sorted(tensors.keys() - aliases)
    if missing or unknown:
        raise StageFailed(f"checkpoint {directory.name} does not fit: missing {missing[:3]}, unknown {unknown[:3]}")
    for name, place in places.items():
        if tensors[name].shape != place.shape:
            shapes = f"{tuple(tensors[name].shape)}, the model's is {tuple(place.shape)}"
            raise StageFailed(f"checkpoint {directory.name} does not fit: {name} has shape {shapes}")
        if tensors[name].is_floating_point() and not _finite(tensors[name], place.device):
            raise StageFailed(f"checkpoint {directory.name} is refused: {name} holds values that are not finite")
    if _digest(model, tensors) != manifest.fingerprint:
        raise StageFailed(f"checkpoint {directory.name} is refused: its weights are not those its manifest names")
    fitted = {name: tensors[name].to(place.dtype) for name, place in places.items()}
    same = all(fitted[name].dtype == tensors[name].dtype for name in fitted)
    found = manifest.fingerprint if same else _digest(model, fitted)
    return Weights(version, found, manifest.fingerprint, fitted)


def load(policy: Policy, anatomy: Anatomy, weights: Weights) -> None:
    """Copy weights into a model that nobody runs, and prove that they are there.

    Raises:
        StageFailed: what lies in the model is not what was read, or the canary forward is not finite.

    """
    with side_stream(policy.device):
        with torch.no_grad():
            for name, place in _places(policy.model).items():
                place.copy_(weights.tensors[name])
        prove(policy, anatomy, weights)


def exchange(policy: Policy, weights: Weights) -> Weights:
    """Put weights into a model in place and give back those that were there: for one lane, between two steps."""
    held: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, place in _places(policy.model).items():
            held[name] = place.detach().to("cpu", copy=True)
            place.copy_(weights.tensors[name])
    return Weights(policy.version, "", "", held)


def prove(policy: Policy, anatomy: Anatomy, weights: Weights) -> None:
    """Check the live parameters, value by value, against what was read, and run a canary forward.

    Raises:
        StageFailed: a check failed.

    """
    for name, place in _places(policy.model).items():
        if not torch.equal(place.detach(), weights.tensors[name].to(place.device)):
            raise StageFailed(f"version {weights.version} is refused: {name} in memory is not what was read")
    ids_1T = probe_ids(anatomy, 16).to(policy.device)
    with torch.inference_mode():
        output: Any = policy.model(input_ids=ids_1T, use_cache=False)
    if not bool(torch.isfinite(output.logits).all()):
        raise StageFailed(f"version {weights.version} is refused: its logits on the canary prompt are not finite")


def _finite(tensor: Tensor, device: torch.device) -> bool:
    """Look where the model lies: a GPU is many times quicker at it, the way there included."""
    with side_stream(device):
        return bool(torch.isfinite(tensor.to(device)).all())


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


def _places(model: nn.Module) -> dict[str, Tensor]:
    """Live tensors that a checkpoint fills: parameters, tied ones once, and the buffers that are saved."""
    saved = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in saved}
    return dict(model.named_parameters()) | buffers


def _digest(model: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """Compute what `fingerprint` would say of a model that held these tensors."""
    return digest((name, tensors[name]) for name, _ in sorted(model.named_parameters()))
