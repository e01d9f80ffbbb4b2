"""Held-out sets in the store: versions that follow one another, one of them active, whoever comes at the same time."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import inspect

from app.errors import NotFound
from app.store import held_out
from app.store.connect import Store


def test_uploads_at_once_get_versions_of_their_own_and_one_is_active(store: Store) -> None:
    def upload(index: int) -> int:
        with store.session() as session:
            row = held_out.add(session, f"{index}\n", 1, "ada")
            held_out.activate(session, row.version, "ada")
            return row.version

    with ThreadPoolExecutor(4) as threads:
        versions = sorted(threads.map(upload, range(12)))
    assert versions == list(range(1, 13))
    with store.session() as session:
        assert [row.version for row in held_out.list_sets(session) if row.active] == [12]
        assert held_out.active_version(session) == 12


def test_listings_pass_over_the_lines(store: Store) -> None:
    with store.session() as session:
        held_out.add(session, "{}\n", 1, "ada")
    with store.session() as session:
        [row] = held_out.list_sets(session)
        assert "lines" in inspect(row).unloaded
        assert (row.active, row.activated_by, row.size) == (False, None, 3)
        assert held_out.get(session, 1, lines=True).lines == "{}\n"
        assert held_out.active(session) is None


def test_a_version_that_is_not_there_changes_nothing(store: Store) -> None:
    with store.session() as session:
        held_out.activate(session, held_out.add(session, "{}", 1, "ada").version, "ada")
    with pytest.raises(NotFound, match="lepo data held-out list"), store.session() as session:
        held_out.activate(session, 2, "ada")
    with store.session() as session:
        assert held_out.active_version(session) == 1
