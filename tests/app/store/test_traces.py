"""Traces in files: written before their row is committed, gone after it is, never believed without their digest."""

import hashlib
import os
import time
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from app.settings import Settings
from app.store import claims, export, interactions, retention
from app.store.connect import Store
from app.store.erasure import Subject, begin, step
from app.store.interactions import Filters
from app.store.removed import Tombstone
from app.store.tables import Checkpoint, Interaction, StoredRollout
from app.store.traces import YOUNGEST_ORPHAN_S, TraceFiles, TraceLost, open_traces
from tests.app.store.learned import age, claimed, graded, learned
from tests.conftest import answer

PAYLOAD = b"\x00trace\xff"


@pytest.fixture
def files(tmp_path: Path) -> TraceFiles:
    found = open_traces((tmp_path / "tra ces").as_uri())
    assert found is not None
    return found


def write(store: Store, base: Checkpoint, files: TraceFiles, **changes: Any) -> UUID:
    with store.session() as session:
        row = Interaction(**answer(base, f"chatcmpl-{uuid4().hex}", 0, 1) | changes)
        interactions.record(session, row, codec=1, payload=PAYLOAD, files=files)
        return row.id


def there(files: TraceFiles) -> list[Path]:
    return [path for path in files.directory.rglob("*") if path.is_file()]


def test_a_trace_reads_the_same_wherever_it_is(store: Store, base_checkpoint: Checkpoint, files: TraceFiles) -> None:
    one = write(store, base_checkpoint, files)
    with store.session() as session:
        stored = interactions.rollout(session, one)
        assert stored is not None
        assert (stored.inline, stored.sha256, stored.payload) == (None, hashlib.sha256(PAYLOAD).digest(), PAYLOAD)
        [record] = export.page(session, Filters(), rollouts=True)
        assert record["rollout"] == {"codec": 1, "payload": "AHRyYWNl/w=="}
    assert there(files) == [files.path(one)]


def test_it_is_learned_from_and_a_lost_or_changed_one_is_not(
    store: Store, base_checkpoint: Checkpoint, files: TraceFiles
) -> None:
    good, lost, changed = (write(store, base_checkpoint, files) for _ in range(3))
    files.path(lost).unlink()
    files.path(changed).write_bytes(b"other")
    with store.session() as session:
        for one, words in ((lost, "cannot be read"), (changed, "not what was written")):
            stored = interactions.rollout(session, one)
            assert stored is not None
            with pytest.raises(TraceLost, match=words):
                _ = stored.payload
        kept = {one["id"][4:]: one["rollout"] for one in export.page(session, Filters(), rollouts=True)}
    assert {one for one, rollout in kept.items() if rollout is not None} == {good.hex}
    graded(store, [good, lost, changed])
    job = claimed(store, [good, lost, changed], taken=1)
    with store.session() as session:
        assert [one.payload for one in claims.load(session, [session.get_one(Interaction, good)])] == [PAYLOAD]
        assert claims.outcomes(session, job.id) == {"claimed": 1, "skipped:no_rollout": 2}


def test_a_file_goes_with_its_row_and_stays_when_the_removal_does_not_happen(
    store: Store, base_checkpoint: Checkpoint, files: TraceFiles
) -> None:
    one = write(store, base_checkpoint, files)
    subject = Subject(interaction_id=one)
    with store.session() as session:
        wish = begin(session, subject, "test").id
    with store.session() as session:
        assert step(session, wish, subject) == 1
        session.rollback()
    assert there(files) == [files.path(one)]
    with store.session() as session:
        step(session, wish, subject)
        assert there(files) == [files.path(one)], "not before the commit"
    assert there(files) == []
    with store.session() as session:
        assert session.get_one(Tombstone, one).sha256 == hashlib.sha256(b"1+1?\x002\x00" + PAYLOAD).digest()


def test_retention_removes_files(store: Store, base_checkpoint: Checkpoint, files: TraceFiles) -> None:
    ids = [write(store, base_checkpoint, files) for _ in range(2)]
    never = write(store, base_checkpoint, files, learnable=False, unlearnable_reason="cancelled")
    learned(store, ids, (0.0, 1.0))
    age(store, 40)
    swept = retention.sweep(store, Settings.model_validate({"keep_ungraded_days": 0.0}))
    assert (swept["rollouts"], swept["unlearnable_rollouts"]) == (2, 1)
    assert there(files) == []
    with store.session() as session:
        assert session.scalars(select(StoredRollout)).all() == []
        assert session.get(Interaction, never) is not None


def test_orphans_are_swept_and_young_ones_are_not(store: Store, base_checkpoint: Checkpoint, files: TraceFiles) -> None:
    kept = write(store, base_checkpoint, files)
    with store.session() as session:
        row = Interaction(**answer(base_checkpoint, "chatcmpl-undone", 0, 1))
        interactions.record(session, row, codec=1, payload=PAYLOAD, files=files)
        session.rollback()
    half = files.path(uuid4()).with_suffix(".partial")
    half.parent.mkdir(exist_ok=True)
    half.write_bytes(b"ha")
    stranger = files.directory / "aa" / "README"
    stranger.parent.mkdir(exist_ok=True)
    stranger.write_bytes(b"")
    with store.session() as session:
        assert files.sweep(session) == 0, "their transactions may be under way"
        old = time.time() - YOUNGEST_ORPHAN_S - 1
        for path in there(files):
            os.utime(path, (old, old))
        assert files.sweep(session) == 2
    assert set(there(files)) == {files.path(kept), stranger}


@pytest.mark.parametrize("place", ["s3://bucket/x", "file://host/x", "file:x", "/srv/x", ""])
def test_only_a_directory_or_the_database_will_do(place: str) -> None:
    with pytest.raises(ValueError, match="file:///path"):
        Settings.model_validate({"traces": place})


def test_by_default_they_are_in_the_database() -> None:
    assert open_traces(Settings().traces) is None
