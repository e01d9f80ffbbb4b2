"""A checkpoint as the first format had it."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from training.models import earlier
from training.models.checkpoint import MANIFEST, TRAINING_STATE, Manifest, read_manifest, write_manifest
from training.models.seal import content, names


def as_first_format(directory: Path) -> None:
    """Rewrite a checkpoint whose parameters are all that is in its weights' files."""
    now = read_manifest(directory)
    if (directory / TRAINING_STATE).is_file():
        (directory / TRAINING_STATE).rename(directory / earlier.TRAINING_STATE)
        (directory / TRAINING_STATE).parent.rmdir()
    weights = sorted(directory.glob("model*.safetensors"))
    parameters: dict[str, torch.Tensor] = {name: one for path in weights for name, one in load_file(path).items()}
    fingerprint = earlier.fingerprint(weights, parameters)
    files = {name: content(directory / name, 1) for name in names(directory, MANIFEST)}
    first = Manifest(now.version, now.parent_version, fingerprint, now.created, now.training, files, format_version=1)
    write_manifest(directory, first)
