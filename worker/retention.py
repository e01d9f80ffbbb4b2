"""Which checkpoint directories stay on disk: the newest, those served now and before, and the base model.

Leaves out their rows, which stay for good: what was learned from what must be answerable after the weights are gone.
"""

import shutil
from collections.abc import Collection
from pathlib import Path


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
    """Find the checkpoint directories under `parent` by their version; anything else there is not ours to touch."""
    if not parent.is_dir():
        return {}
    return {int(path.name): path for path in parent.iterdir() if path.name.isdecimal() and path.is_dir()}


def delete(directory: Path) -> None:
    """Delete a checkpoint: renamed first, so that no half-deleted directory is ever taken for a checkpoint."""
    doomed = directory.with_name(f".deleted-{directory.name}")
    if doomed.exists():
        shutil.rmtree(doomed)
    directory.rename(doomed)
    shutil.rmtree(doomed)
