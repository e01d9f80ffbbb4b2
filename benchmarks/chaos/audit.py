"""What must be true after any fault, counted from the database, the disk and the clients' own records.

Every counter is 0 in a sound service. The service's own word is never asked, but for what it serves. Leaves out whether
it came back at all (`benchmarks.chaos.trial`).
"""

import fcntl
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.store.connect import Store
from benchmarks.chaos import queries
from benchmarks.chaos.crowd import Records
from training.models.checkpoint import checkpoint_dir, verify
from training.models.seal import BadCheckpoint

SETTLED_S: Final = 15.0  # within which a server follows the database
TIDY_S: Final = 3.0  # within which a directory that is written off is gone

Findings = tuple[Counter[str], list[str]]  # counters, and each violation in words


def audit(store: Store, records: Records, version: Callable[[], int | None], directory: Path) -> Findings:
    """Count every violation.

    Args:
        store: the service's database.
        records: what its users were told.
        version: asks the server which policy it serves.
        directory: where checkpoints are.

    """
    answers, grades = set(records.answers), dict(records.grades)
    with store.session() as session:
        found, words = in_database(session, answers, grades)
    for counter, more in (
        ("wrong_serving", followed(store, version)),
        ("half_checkpoints_served", halves(store)),
        ("leaked_files", leaks(store, directory)),
    ):
        found[counter] += len(more)
        words += [f"{counter}: {one}" for one in more]
    return found, words


def in_database(session: Session, answers: set[Any], grades: dict[Any, tuple[Any, float]]) -> Findings:
    """Count what the tables say, and what they lack of the clients' records."""
    found, words = Counter(dict.fromkeys(queries.COUNTERS, 0)), []

    def count(counter: str, what: str, sql: str, **given: Any) -> None:
        if many := int(session.execute(text(sql), given).scalar_one()):
            found[counter] += many
            words.append(f"{counter}: {many} {what}")

    count("lost_interactions", "acknowledged answers are not there", queries.LOST_INTERACTIONS, ids=list(answers))
    told = {
        "ids": list(grades),
        "interactions": [interaction for interaction, _ in grades.values()],
        "values": [value for _, value in grades.values()],
    }
    count("lost_grades", "acknowledged grades are not there or count for nothing", queries.LOST_GRADES, **told)
    for counter, asked in (
        ("double_trained", queries.DOUBLE),
        ("wrong_serving", queries.WRONG),
        ("burnt_answers", queries.BURNT),
        ("stuck_jobs", queries.STUCK),
    ):
        for what, sql in asked.items():
            count(counter, what, sql)
    against = promoted_while_frozen(session)
    found["wrong_serving"] += against
    if against:
        words.append(f"wrong_serving: {against} updates were promoted while learning was frozen")
    return found, words


def promoted_while_frozen(session: Session) -> int:
    """Count updates that came to serve after an operator had said stop, reading the history in its order."""
    frozen, against = False, 0
    for event, actor in session.execute(text("SELECT event, actor FROM transitions ORDER BY entry")):
        frozen = {"freeze": True, "thaw": False}.get(event, frozen)
        against += frozen and event == "promote" and actor == "worker"
    return against


def followed(store: Store, version: Callable[[], int | None]) -> list[str]:
    """Say if the server does not come to serve what the database says it should."""
    until = time.monotonic() + SETTLED_S
    while True:
        before, served, after = wanted(store), version(), wanted(store)
        if before == served:
            return []
        if time.monotonic() > until and before == after:
            return [f"the server serves version {served}, the database says {after}"]
        time.sleep(0.1)


def wanted(store: Store) -> int | None:
    """Read which policy is to serve."""
    with store.session() as session:
        found: int | None = session.scalar(text("SELECT version FROM checkpoints WHERE state = 'serving'"))
        return found


def halves(store: Store) -> list[str]:
    """Find served checkpoints that are not whole on disk, or were not whole in a server's memory."""
    with store.session() as session:
        rows = list(session.execute(text(queries.HALF)))
        odd = loaded_otherwise(session)
    for version, path, digest in rows:
        try:
            if verify(Path(path)).fingerprint != digest:
                odd.append(f"version {version} is not what its row says")
        except (BadCheckpoint, OSError) as error:
            if not deleted(store, version):
                odd.append(f"version {version}: {error}")
    return odd


def loaded_otherwise(session: Session) -> list[str]:
    """Find versions under which a server held other weights than were published."""
    return [f"a server held other weights under version {one}" for one in session.scalars(text(queries.HALF_LOADED))]


def deleted(store: Store, version: int) -> bool:
    """Whether a version's files were written off by now."""
    query = text("SELECT files_deleted_at IS NOT NULL FROM checkpoints WHERE version = :version")
    with store.session() as session:
        return bool(session.scalar(query, {"version": version}))


def leaks(store: Store, directory: Path) -> list[str]:
    """Find directories that are nobody's, seen twice with time in between for who is just tidying up."""
    first = nobodys(store, directory)
    if not first:
        return []
    time.sleep(TIDY_S)
    return sorted(first & nobodys(store, directory))


def nobodys(store: Store, directory: Path) -> set[str]:
    """Name directories of versions without a row or written off, and unfinished ones that nobody writes.

    The next version's own directory may lie there: its publisher works on it, or was killed, and the next one sweeps.
    """
    with store.session() as session:
        rows = list(session.execute(text("SELECT version, files_deleted_at IS NULL FROM checkpoints")))
    keeps = {checkpoint_dir(directory, version).name for version, kept in rows if kept}
    keeps.add(checkpoint_dir(directory, max((version for version, _ in rows), default=-1) + 1).name)
    there = [path for path in directory.iterdir() if path.is_dir()]
    published = {path.name for path in there if path.name.startswith("v") and path.name not in keeps}
    return published | {path.name for path in there if path.name.startswith(".unfinished") and abandoned(path)}


def abandoned(directory: Path) -> bool:
    """Whether nobody holds the lock of a directory that is being written."""
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(handle)
