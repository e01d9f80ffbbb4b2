"""Traces in files: an answer's rollout apart from its row, which then holds the file's address and digest.

A file is written whole before the row that names it is committed, so a row never names what was not there; and it goes
after the commit that removes its row. What a crash or a rolled-back transaction leaves between the two is an orphan,
found by its name (the answer's id) and removed by a sweep once it is an hour old. A file is not forced to the disk: one
that a power failure took is known by its digest, and costs one answer to learn from. Rows name whole addresses, so that
what was written earlier is found whatever the setting says now; every process that learns or exports must see them
there. Leaves out the rows (`app.store.tables`) and when they go (`app.store.retention`).
"""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit
from uuid import UUID

from sqlalchemy import event, text
from sqlalchemy.orm import Session

from app.errors import LepoError

SUFFIX: Final = ".rollout"
YOUNGEST_ORPHAN_S: Final = 3600.0  # a younger file's transaction may still be under way
BATCH: Final = 1000  # files whose rows are looked for at once


class TraceLost(LepoError):
    """A trace is not where its row says, or is not what was written there."""

    default_code = "trace_lost"


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a trace is kept. Example: Kept("file:///srv/traces/3f/0198....rollout", b"...")."""

    address: str
    sha256: bytes  # of its bytes


@dataclass(frozen=True, slots=True)
class TraceFiles:
    """A directory of traces, spread over 256 directories by the last digits of their names, which are random."""

    directory: Path

    def write(self, interaction_id: UUID, payload: bytes) -> Kept:
        """Write a trace; it is there as a whole or not at all.

        Raises:
            OSError: it cannot be written.

        """
        path = self.path(interaction_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_bytes(payload)
        partial.replace(path)
        return Kept(path.as_uri(), hashlib.sha256(payload).digest())

    def path(self, interaction_id: UUID) -> Path:
        """Say where a trace is."""
        return self.directory.resolve() / interaction_id.hex[-2:] / f"{interaction_id.hex}{SUFFIX}"

    def sweep(self, session: Session, *, now: float | None = None) -> int:
        """Remove files that no row names and that are too old for one to come; returns how many."""
        oldest = (time.time() if now is None else now) - YOUNGEST_ORPHAN_S
        removed = 0
        files = self._older(oldest)
        while batch := list(islice(files, BATCH)):
            ids = {path: UUID(hex=path.stem) for path in batch}
            query = text("SELECT interaction_id FROM rollouts WHERE interaction_id = ANY(:ids) AND address IS NOT NULL")
            known = set(session.scalars(query, {"ids": list(ids.values())}))
            for path in batch:
                if ids[path] not in known:
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed

    def _older(self, than: float) -> Iterator[Path]:
        """Find files by their age; what is half written counts as what it was to become."""
        for directory in sorted(self.directory.glob("[0-9a-f][0-9a-f]")):
            with os.scandir(directory) as entries:
                for entry in entries:
                    stem = entry.name.partition(".")[0]
                    with suppress(FileNotFoundError, ValueError):  # gone meanwhile; not one of ours
                        UUID(hex=stem)
                        if entry.stat().st_mtime < than:
                            yield Path(entry.path)


def open_traces(place: str) -> TraceFiles | None:
    """Give the directory that LEPO_TRACES names; None: traces are kept in the database."""
    return None if place == "database" else TraceFiles(path_of(place))


def read(address: str, sha256: bytes | None) -> bytes:
    """Read a trace.

    Raises:
        TraceLost: it is gone, cannot be read from here, or is not what was written.

    """
    path = path_of(address)
    try:
        payload = path.read_bytes()
    except OSError as error:
        words = f"The trace {path} cannot be read ({error.strerror}); this process must see what LEPO_TRACES names."
        raise TraceLost(words) from error
    if hashlib.sha256(payload).digest() != sha256:
        raise TraceLost(f"The trace {path} is not what was written there.")
    return payload


def path_of(address: str) -> Path:
    """Find the file of an address that `TraceFiles.write` gave."""
    return Path(unquote(urlsplit(address).path))


def remove_after_commit(session: Session, addresses: Sequence[str]) -> None:
    """Remove files once the removal of their rows is committed; a crash in between leaves them to the sweep."""
    if not addresses:
        return

    def gone(_session: Session) -> None:
        for address in addresses:
            path_of(address).unlink(missing_ok=True)

    event.listen(session, "after_commit", gone, once=True)
