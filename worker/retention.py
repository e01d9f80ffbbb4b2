"""What need not stay: checkpoint directories by count, state and quota, grown logs, and a sweep over all of it.

Any worker may sweep, and two at once harm nothing. Files are swept by a worker that sees them: one without the
directory of checkpoints leaves them to others.

What serves or loads is never touched: the serving policy, the one it replaced, policies that wait for a decision, the
base, and whatever a process reads just now (`training.models.in_use`). Rows stay for good: what was learned from what
must be answerable after the weights are gone. A directory is first written off in its row, then renamed, then removed;
whatever a kill leaves in between is found by name and removed later, as are directories that have no row and no live
publisher.

Leaves out the rules for rows (`app.store.retention`).
"""

import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.errors import Unavailable
from app.settings import Settings
from app.store import jobs, learning, policy_life
from app.store.checkpoints import next_version
from app.store.connect import Store
from app.store.retention import sweep as sweep_rows
from app.store.tables import Checkpoint
from app.store.traces import open_traces
from training.models.checkpoint import MANIFEST, checkpoint_dir
from training.models.checkpoint import sweep as sweep_unfinished
from training.models.in_use import alone
from worker.resident import Context

CHECKPOINTS: Final = "checkpoints"  # directory under LEPO_VAR_DIR
GOING: Final = ".removed-"  # begins the name of a directory that is being removed
FIRST_TO_GO: Final = ("refused", "rolled_back", "retired")  # for the quota, in this order

log = logging.getLogger(__name__)

Choice = Callable[[Mapping[int, str], Collection[int]], Sequence[int]]  # states by version, protected -> versions to go


class QuotaReached(Unavailable):
    """A checkpoint would not fit into LEPO_DISK_QUOTA, and nothing more may go."""

    default_code = "disk_quota"


def sweep(context: Context) -> dict[str, int]:
    """Sweep for no longer than the time between two looks for work; the rest goes next time. Returns what went."""
    until = time.monotonic() + context.settings.learn_interval
    counts = sweep_rows(
        context.store, context.settings, until=lambda: context.stopping.is_set() or time.monotonic() > until
    )
    counts |= sweep_files(context.store, context.settings)
    if (orphans := sweep_traces(context.store, context.settings)) > 0:
        counts["orphaned_traces"] = orphans
    if counts:
        log.info("swept: %s", counts)
    return counts


def sweep_traces(store: Store, settings: Settings) -> int:
    """Remove files of rollouts that no row names; returns how many."""
    files = open_traces(settings.traces)
    if files is None or not files.directory.is_dir():
        return 0
    with store.session() as session:
        return files.sweep(session)


def sweep_files(store: Store, settings: Settings) -> dict[str, int]:
    """Remove checkpoints beyond their number and quota, and begin grown logs anew; returns what went."""
    parent = settings.var_dir / CHECKPOINTS
    gone = len([*prune(store, settings, parent), *make_room(store, settings, parent)]) if parent.is_dir() else 0
    logs: list[Path] = begin_anew(settings.var_dir / "logs", settings.keep_log_bytes)
    return {name: count for name, count in (("checkpoints", gone), ("logs", len(logs))) if count}


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


def too_many(sizes: Mapping[int, int], states: Mapping[int, str], protected: Collection[int], excess: int) -> list[int]:
    """Choose versions to delete until `excess` bytes are free: refused ones first, then rolled back, then retired.

    Args:
        sizes: version -> bytes, of those on disk.
        states: version -> state, of those that have files.
        protected: stay whatever happens.
        excess: bytes that must go; what is chosen may come to less, when nothing more may go.

    """
    able = [one for one in sizes if states.get(one) in FIRST_TO_GO and one not in protected]
    chosen: list[int] = []
    for version in sorted(able, key=lambda one: (FIRST_TO_GO.index(states[one]), one)):
        if excess <= 0:
            break
        chosen.append(version)
        excess -= sizes[version]
    return chosen


def prune(store: Store, settings: Settings, parent_dir: Path) -> list[int]:
    """Delete the directories of old checkpoints, and what is left of those that were being deleted.

    Returns:
        The versions deleted now.

    """
    keep, keep_refused = settings.keep_checkpoints, settings.keep_refused
    gone = write_off(store, parent_dir, lambda states, safe: expired(states, keep, keep_refused, safe))
    clear(store, parent_dir)
    return gone


def make_room(store: Store, settings: Settings, parent_dir: Path, needed: int = 0) -> list[int]:
    """Delete checkpoints until those that stay, and one of `needed` bytes, are within LEPO_DISK_QUOTA.

    Returns:
        The versions deleted.

    Raises:
        QuotaReached: they are not, and nothing more may go.

    """
    if not settings.disk_quota or not parent_dir.is_dir():
        return []
    clear(store, parent_dir)
    gone: list[int] = []
    used: set[int] = set()  # chosen, and read by somebody just now
    while (excess := taken(parent_dir) + needed - settings.disk_quota) > 0:
        sizes = {version: taken(path) for version, path in versions_on_disk(parent_dir).items()}
        chosen: list[int] = []

        def oldest(
            states: Mapping[int, str],
            safe: Collection[int],
            sizes: Mapping[int, int] = sizes,
            chosen: list[int] = chosen,
            excess: int = excess,
        ) -> list[int]:
            chosen += too_many(sizes, states, {*safe, *used}, excess)
            return chosen

        now = write_off(store, parent_dir, oldest)
        gone += now
        used.update(set(chosen) - set(now))
        if not chosen:
            break
    if excess > 0 and needed:
        raise QuotaReached(
            f"A checkpoint of {needed} bytes does not fit into LEPO_DISK_QUOTA={settings.disk_quota}: "
            f"{taken(parent_dir)} bytes are taken by what serves, served before, waits for a decision, is read just "
            "now, or is no checkpoint. Raise the quota, or decide on what waits.",
            retry_after=60,
        )
    return sorted(gone)


def protected_versions(session: Session) -> set[int]:
    """Name the versions whose files must stay: the base, what serves, what served before it, what is undecided."""
    serving = policy_life.serving(session)
    before = None if serving is None else policy_life.served_before(session, serving.id)
    return {0, *(one.version for one in (serving, before, *policy_life.undecided(session)) if one is not None)}


def write_off(store: Store, parent_dir: Path, choice: Choice) -> list[int]:
    """Note on the rows of the versions chosen that their files are deleted, then delete them.

    Policies cannot move meanwhile, so none of them can be promoted; those that somebody reads are left out.
    """
    with ExitStack() as held:
        with store.session() as session:
            learning.lock(session)
            there = select(Checkpoint).where(Checkpoint.files_deleted_at.is_(None))
            rows = {row.version: row for row in session.scalars(there)}
            states = {version: row.state for version, row in rows.items()}
            doomed = [
                version
                for version in choice(states, protected_versions(session))
                if held.enter_context(alone(checkpoint_dir(parent_dir, version)))
            ]
            for version in doomed:
                rows[version].files_deleted_at = func.now()
        going = [set_aside(checkpoint_dir(parent_dir, version)) for version in doomed]
    for directory in going:
        remove(directory)
    return sorted(doomed)


def clear(store: Store, parent_dir: Path) -> list[Path]:
    """Remove what no policy has any more: directories written off, half removed, never finished, or without a row.

    The only directory without a row that can be ours is that of the next version, left by a killed publisher; a living
    one has a running job, so none goes while one runs. Any other is a stranger's, or another database's, and stays.

    Returns:
        The directories removed.

    """
    if not parent_dir.is_dir():
        return []
    removed = sweep_unfinished(parent_dir)
    going = sorted(parent_dir.glob(f"{GOING}*"))
    with store.session() as session:
        following = next_version(session)
        orphans = {following} if following and jobs.running(session) is None else set()
        written_off = set(session.scalars(select(Checkpoint.version).where(Checkpoint.files_deleted_at.is_not(None))))
        for version, directory in directories(parent_dir).items():
            if version not in written_off | orphans:
                continue
            with alone(directory) as free:
                if free:
                    log.warning("%s is no policy's any more; it is removed", directory)
                    going.append(set_aside(directory))
    for directory in going:
        remove(directory)
    return [*removed, *going]


def directories(parent: Path) -> dict[int, Path]:
    """Find what is named as a checkpoint under `parent`, complete or not, by version."""
    numbers = (int(path.name[1:]) for path in parent.glob("v*") if path.name[1:].isdecimal())
    found = {number: checkpoint_dir(parent, number) for number in numbers}
    return {number: path for number, path in found.items() if path.is_dir()}


def versions_on_disk(parent: Path) -> dict[int, Path]:
    """Find the published checkpoints under `parent` by version; anything else there is not ours to touch."""
    return {number: path for number, path in directories(parent).items() if (path / MANIFEST).is_file()}


def begin_anew(logs: Path, largest: int) -> list[Path]:
    """Empty the logs beyond a size, each kept once more as `<name>.1`; what is written meanwhile may be lost.

    The processes that write them append, so they go on at the new end.
    """
    if not largest:
        return []
    grown = [path for path in sorted(logs.glob("*.log")) if path.stat().st_size > largest]
    for path in grown:
        shutil.copyfile(path, path.with_name(f"{path.name}.1"))
        os.truncate(path, 0)
    return grown


def taken(directory: Path) -> int:
    """Sum the sizes of all files in a directory, bytes; one that goes meanwhile counts for nothing."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += (Path(folder) / name).lstat().st_size
            except FileNotFoundError:
                continue
    return total


def set_aside(directory: Path) -> Path:
    """Give a directory the name of one that is being removed: in one step it is no checkpoint any more."""
    going = directory.with_name(f"{GOING}{directory.name}-{secrets.token_hex(4)}")
    try:
        return directory.rename(going)
    except FileNotFoundError:
        return going


def remove(directory: Path) -> None:
    """Remove a directory, its manifest first: what is half removed is no checkpoint any more."""
    if not directory.is_dir():
        return
    try:
        (directory / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(directory)
    except OSError as error:
        log.warning("%s could not be removed: %s; it is tried again later", directory, error)
