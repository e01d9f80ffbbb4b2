"""`lepo bench store` on a few thousand rows: every question is asked, of rows that are what the service leaves."""

from typing import Any

import pytest
from sqlalchemy import text

from app.store.connect import Store
from benchmarks.store.command import asked, measure, questions
from benchmarks.store.fill import fill

ROWS = 3000


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return measure(tmp_path_factory.mktemp("store"), ROWS, 1)


def test_every_question_has_its_time_and_its_plan(report: dict[str, Any]) -> None:
    assert report["asked"].keys() == report["raw"].keys() == questions().keys()
    assert all(one["median_ms"] > 0 for one in report["asked"].values())
    assert report["slowest_ms"] == max(one["median_ms"] for one in report["asked"].values())
    assert all(plans for plans in report["raw"].values())
    assert set(report["megabytes"]) == {"requests", "interactions", "grades", "claims", "tallies"}


def test_what_is_written_inside_postgres_is_what_the_service_would_count(store: Store) -> None:
    said: list[str] = []
    fill(store, ROWS, said.append)
    assert said
    assert said[-1].startswith(f"{ROWS:,} answers")
    with store.session() as session:
        rows = session.execute(text("SELECT what || '/' || name, count FROM tallies"))
        counts: dict[str, int] = {name: count for name, count in rows}  # noqa: C416 - rows are no pairs to mypy
        answers = session.scalar(text("SELECT count(*) FROM interactions"))
        graded = session.scalar(text("SELECT count(*) FROM interactions WHERE graded_at IS NOT NULL"))
        indexes = set(session.scalars(text("SELECT indexname FROM pg_indexes WHERE tablename = 'interactions'")))
    assert answers == counts["answers/"] == ROWS
    assert graded == ROWS // 5
    assert sum(one.startswith("ix_") for one in indexes) > 5, "those that were dropped for the filling are back"
    figures, _ = asked(store, 1)
    assert figures.keys() == questions().keys()
