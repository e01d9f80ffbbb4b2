"""Checkpoints of the first format: one SHA-256 over each file, and one over all parameters, one after another.

They are read as before; new ones have trees (`training.models.tree`).
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

FORMAT_VERSION = 1
TRAINING_STATE = "training_state.safetensors"  # where the first format kept its learner's state


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(paths: Iterable[Path], names: Iterable[str]) -> str:
    """SHA-256 (hex) of the named tensors of some files: name, dtype, shape and bytes of each, by name."""
    tensors: Mapping[str, Tensor] = {name: one for path in paths for name, one in load_file(path).items()}
    sha = hashlib.sha256()
    for name in sorted(names):
        tensor = tensors[name]
        sha.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}\n".encode())
        sha.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
