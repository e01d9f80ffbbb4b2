"""Which checkpoint directories stay on disk: the newest, those served now and before, and the base model.

Leaves out their rows, which stay for good: what was learned from what must be answerable after the weights are gone.
"""

import shutil
from collections.abc import Collection
from pathlib import Path

from training.checkpoint import MANIFEST, checkpoint_dir


def expired(versions: Collection[int], keep: int, protected: Collection[int]) -> list[int]:
    """Choose the versions to delete: all but the `keep` newest and the protected ones.

    Args:
        versions: those on disk.
        keep: how many of the newest stay, >= 1.
        protected: stay whatever their age (serving, previous, base).

    """
    newest = sorted(versions)[-keep:]
    return sorted(set(versions) - set(newest) - set(protected))


def versions_on_disk(parent: Path) -> dict[int, Path]:
    """Find the published checkpoints under `parent` by version; anything else there is not ours to touch."""
    numbers = (int(path.name[1:]) for path in parent.glob("v*") if path.name[1:].isdecimal())
    found = {number: checkpoint_dir(parent, number) for number in numbers}
    return {number: path for number, path in found.items() if (path / MANIFEST).is_file()}


def delete(directory: Path) -> None:
    """Delete a checkpoint, its manifest first: what is half deleted is no checkpoint any more."""
    (directory / MANIFEST).unlink()
    shutil.rmtree(directory)
