"""Exports written from a database, as the route reads them, without a server between."""

from collections.abc import Iterator
from pathlib import Path

from app import data_files
from app.data_files import Source
from app.identifiers import read
from app.store import export
from app.store.base import Json
from app.store.connect import Store
from app.store.interactions import Filters


def source(store: Store, filters: Filters, *, rollouts: bool = False) -> Source:
    """Read what a filter shows, a transaction a page."""

    def records(after: str | None) -> Iterator[Json]:
        found: list[Json] = [{}]
        while found:
            with store.session() as session:
                begin = None if after is None else read("int", after)
                found = export.page(session, filters, begin, rollouts=rollouts)
            yield from found
            after = found[-1]["id"] if found else None

    return records


def export_file(
    store: Store, out: Path, filters: Filters, *, form: str, rollouts: bool = False, resume: bool = False
) -> tuple[int, str | None]:
    """Export what a filter shows to a file."""
    records = source(store, filters, rollouts=rollouts)
    return data_files.export_file(records, out, form=form, rollouts=rollouts, resume=resume)
