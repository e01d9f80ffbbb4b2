"""Which checkpoint directories stay on disk, and the removal of the others.

What serves or loads is never touched: the serving policy, the one it replaced, policies that wait for a decision, and
the base. Rows stay for good: what was learned from what must be answerable after the weights are gone. A directory is
first written off in its row, then removed, its manifest first; so what a kill leaves behind is found and removed later.
"""

import logging
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from sqlalchemy import func, select

from app.settings import Settings
from app.store import policy_life
from app.store.connect import Store
from app.store.tables import Checkpoint
from training.checkpoint import MANIFEST, checkpoint_dir

log = logging.getLogger(__name__)


def expired(states: Mapping[int, str], keep: int, keep_refused: int, protected: Collection[int]) -> list[int]:
    """Choose the versions to delete.

    Args:
        states: version -> state, of those that have files.
        keep: how many of the newest stay, >= 1.
        keep_refused: how many refused ones may be among them, >= 0.
        protected: stay whatever their age.

    """
    newest_first = sorted(states, reverse=True)
    refused = [version for version in newest_first if states[version] == "refused"]
    staying = [version for version in newest_first if version not in refused[keep_refused:]][:keep]
    return sorted(set(states) - set(staying) - set(protected))


def prune(store: Store, settings: Settings, parent_dir: Path) -> list[int]:
    """Delete the directories of old checkpoints, and what is left of those that were being deleted.

    Returns:
        The versions deleted now.

    """
    with store.session() as session:
        rows = list(session.scalars(select(Checkpoint).where(Checkpoint.files_deleted_at.is_(None))))
        serving = policy_life.serving(session)
        before = None if serving is None else policy_life.served_before(session, serving.id)
        protected = {0, *(one.version for one in (serving, before, *policy_life.undecided(session)) if one is not None)}
        states = {row.version: row.state for row in rows}
        doomed = expired(states, settings.keep_checkpoints, settings.keep_refused, protected)
        for row in rows:
            if row.version in doomed:
                row.files_deleted_at = func.now()
        session.flush()
        gone = set(session.scalars(select(Checkpoint.version).where(Checkpoint.files_deleted_at.is_not(None))))
    for version in sorted(gone):
        remove(checkpoint_dir(parent_dir, version))
    return doomed


def versions_on_disk(parent: Path) -> dict[int, Path]:
    """Find the published checkpoints under `parent` by version; anything else there is not ours to touch."""
    numbers = (int(path.name[1:]) for path in parent.glob("v*") if path.name[1:].isdecimal())
    found = {number: checkpoint_dir(parent, number) for number in numbers}
    return {number: path for number, path in found.items() if (path / MANIFEST).is_file()}


def remove(directory: Path) -> None:
    """Remove a directory, its manifest first: what is half removed is no checkpoint any more."""
    if not directory.is_dir():
        return
    try:
        (directory / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(directory)
    except OSError as error:
        log.warning("%s could not be removed: %s; it is tried again after the next update", directory, error)
