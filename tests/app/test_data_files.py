"""What is exported can be read back and is what the database holds: JSON lines and Parquet, whole or resumed."""

import base64
import hashlib
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from sqlalchemy import select

from app.data_files import Record, read_lines, unflat
from app.errors import Unavailable
from app.identifiers import show
from app.store import export
from app.store.base import Json
from app.store.connect import Store
from app.store.erasure import Subject, begin, step
from app.store.export import page
from app.store.grades import Entry, add_grade
from app.store.interactions import Filters
from app.store.removed import Tombstone
from app.store.tables import Claim, Grade, Interaction, StoredRequest, StoredRollout
from tests.app.store.exported import export_file
from tests.app.store.learned import learned
from tests.conftest import Answers

ALL = Filters()


@pytest.fixture
def filled(store: Store, answers: Answers) -> Store:
    """Answers graded, ungraded, learned, with texts of every kind."""
    ids = answers(3, user_tag="ada", answer='tab\t "quotes" äöü 漢字 \n line', client_metadata={"task": "a"})
    answers(2, learnable=False, unlearnable_reason="cancelled", grader={"type": "math", "reference": "2"})
    with store.session() as session:
        add_grade(session, ids[0], Entry("user", "bob", value=0.25, comment="so\nso", correction="better"))
        add_grade(session, ids[0], Entry("user", "bob", state="retracted"))
    learned(store, answers(2), (0.0, 1.0))
    return store


def from_database(store: Store) -> list[Json]:
    """The same, column by column, read without the code under test."""
    found = []
    with store.session() as session:
        for row in session.scalars(select(Interaction).order_by(Interaction.id)):
            columns = {column.key: getattr(row, column.key) for column in Interaction.__mapper__.column_attrs}
            asked = session.get_one(StoredRequest, row.request_id)
            columns |= {"request": asked.body, "prompt_text": asked.prompts[row.prompt_index]}
            columns |= {"grader": asked.grader, "client_metadata": asked.client_metadata}
            grades = session.scalars(select(Grade).where(Grade.interaction_id == row.id).order_by(Grade.entry))
            rollout = session.get(StoredRollout, row.id)
            claim = session.get(Claim, row.id)
            found.append(
                {
                    **columns,
                    "grades": [(one.id, one.state, one.value, one.comment, one.correction) for one in grades],
                    "payload": None if rollout is None else rollout.payload,
                    "outcome": None if claim is None else claim.outcome,
                }
            )
    return found


def check(records: Sequence[Record], store: Store) -> None:
    rows = from_database(store)
    assert [one["id"] for one in records] == [show("int", row["id"]) for row in rows]
    for one, row in zip(records, rows, strict=True):
        same = {"completion_id", "choice", "group_size", "endpoint", "model", "policy_version", "request", "answer"}
        same |= {"finish_reason", "usage", "grader", "grading_state", "learnable", "unlearnable_reason"}
        assert {name: one[name] for name in same} == {name: row[name] for name in same}
        assert (one["prompt"], one["user"], one["key"]) == (row["prompt_text"], row["user_tag"], row["api_key_id"])
        assert one["metadata"] == row["client_metadata"]
        assert one["created_at"] == row["created_at"].isoformat()
        grades = [(g["id"], g["state"], g["value"], g["comment"], g["correction"]) for g in one["grades"]]
        assert grades == [(show("grade", g[0]), *g[1:]) for g in row["grades"]]
        payload = None if one["rollout"] is None else base64.b64decode(one["rollout"]["payload"])
        assert payload == row["payload"]
        assert (one["learning"] or {}).get("outcome") == row["outcome"]
    assert {one["reward"] for one in records} == {None, 0.0, 1.0}


def test_json_lines_are_what_the_database_holds(filled: Store, tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    count, last = export_file(filled, out, ALL, form="jsonl", rollouts=True)
    records = read_lines(out)
    assert (count, last) == (7, records[-1]["id"])
    check(records, filled)
    assert list(tmp_path.iterdir()) == [out]


def test_parquet_is_the_same(filled: Store, tmp_path: Path) -> None:
    out = tmp_path / "a.parquet"
    export_file(filled, out, ALL, form="parquet", rollouts=True)
    records = [unflat(row) for row in pq.read_table(out).to_pylist()]
    check(records, filled)
    with filled.session() as session:
        assert records == page(session, ALL, rollouts=True)


def test_without_rollouts_there_are_none(filled: Store, tmp_path: Path) -> None:
    export_file(filled, tmp_path / "a.jsonl", ALL, form="jsonl")
    assert "rollout" not in read_lines(tmp_path / "a.jsonl")[0]
    export_file(filled, tmp_path / "a.parquet", ALL, form="parquet")
    assert "rollout" not in pq.read_table(tmp_path / "a.parquet").column_names


@pytest.mark.parametrize(("filters", "count"), [(Filters(user_tag="ada"), 3), (Filters(graded=True), 2), (ALL, 7)])
def test_filters_are_those_of_the_listing(filled: Store, tmp_path: Path, filters: Filters, count: int) -> None:
    assert export_file(filled, tmp_path / "a.jsonl", filters, form="jsonl")[0] == count


def test_an_export_that_breaks_off_leaves_no_file_and_goes_on(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.jsonl"
    whole = tmp_path / "whole.jsonl"
    export_file(filled, whole, ALL, form="jsonl", rollouts=True)

    def few(*args: Any, **named: Any) -> list[Json]:
        return page(*args, **named, limit=2)

    pages_read = iter([few, few])

    def breaking(*args: Any, **named: Any) -> list[Json]:
        read = next(pages_read, None)
        if read is None:
            raise Unavailable("gone")
        return read(*args, **named)

    monkeypatch.setattr(export, "page", breaking)
    with pytest.raises(Unavailable):
        export_file(filled, out, ALL, form="jsonl", rollouts=True)
    assert not out.exists()
    partial = tmp_path / "a.jsonl.partial"
    with partial.open("ab") as file:
        file.write(b'{"id": "int_0')  # and a line that was cut in the middle
    monkeypatch.setattr(export, "page", few)
    assert export_file(filled, out, ALL, form="jsonl", rollouts=True, resume=True)[0] == 3
    assert out.read_bytes() == whole.read_bytes()
    assert not partial.exists()


def test_memory_does_not_grow_with_the_export(store: Store, answers: Answers, tmp_path: Path) -> None:
    def peak(name: str) -> int:
        tracemalloc.start()
        export_file(store, tmp_path / name, ALL, form="jsonl", rollouts=True)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "page", lambda *a, **n: page(*a, **n, limit=20))
        for _ in range(3):
            answers(20, answer="a" * 50_000)
        peak("warm")
        small = peak("small")
        for _ in range(12):
            answers(20, answer="a" * 50_000)
        assert peak("large") < small * 1.3
    assert (tmp_path / "large").stat().st_size > 4 * (tmp_path / "small").stat().st_size


def test_a_tombstone_matches_the_exported_line(filled: Store, tmp_path: Path) -> None:
    """Who has an export of what was removed can prove it."""
    export_file(filled, tmp_path / "a.jsonl", Filters(user_tag="ada"), form="jsonl", rollouts=True)
    subject = Subject(user="ada")
    with filled.session() as session:
        wish = begin(session, subject, "test").id
        assert step(session, wish, subject) == 3
    with filled.session() as session:
        for one in read_lines(tmp_path / "a.jsonl"):
            parts = (one["prompt"].encode(), one["answer"].encode(), base64.b64decode(one["rollout"]["payload"]))
            stones = select(Tombstone.sha256).where(Tombstone.interaction_id == one["id"].removeprefix("int_"))
            assert session.scalar(stones) == hashlib.sha256(b"\0".join(parts)).digest()
