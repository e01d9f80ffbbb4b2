"""Listings in pages, one way for all: `limit` and `after` are asked, `has_more` and `next_after` are answered.

`after` is the id of the last thing of the page before. A listing is read with one row more than is shown, which tells
whether there is another page. Leaves out the queries (`app.store`).
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Generic, Literal, TypeVar
from uuid import UUID

from fastapi import Query
from pydantic import Field

from app.api.http.fields import Text
from app.api.http.shapes import Shape
from app.errors import BadRequest, NotFound
from app.identifiers import Prefix, read

T = TypeVar("T")
Row = TypeVar("Row")

AFTER = "Continue behind this one: `next_after` of the page before."
NO_PLACE: Final[dict[str, Any]] = {"description": "There is nothing of that name to continue behind."}
Limit = Annotated[int, Query(ge=1, le=1000, description="Most that a page holds.")]
After = Annotated[Text | None, Query(max_length=256, description=AFTER)]


def after_id(prefix: Prefix) -> Any:
    """Describe `after` where it is an id of a kind; `cursor` reads it."""
    return Query(description=AFTER, json_schema_extra={"pattern": f"^{prefix}_[0-9a-f]{{32}}$"})


class Page(Shape, Generic[T]):
    """A page of a listing."""

    object: Literal["list"]
    data: list[T]
    has_more: bool = Field(description="Whether there is another page.")
    next_after: str | None = Field(description="`after` of the next page; null: this was the last.")


def cursor(prefix: Prefix, after: str | None) -> UUID | None:
    """Read where a page begins.

    Raises:
        BadRequest: that is no id of this kind.

    """
    try:
        return None if after is None else read(prefix, after)
    except ValueError as error:
        raise BadRequest(f"after: {error}.", param="after") from error


def page(
    found: Sequence[Row], limit: int, show: Callable[[Row], dict[str, Any]], cursor_of: Callable[[Row], str]
) -> dict[str, Any]:
    """Write a page.

    Args:
        found: the rows from where it begins, `limit` + 1 of them where there are as many.
        limit: how many are shown.
        show: writes a row.
        cursor_of: gives what `after` of the next page is, after a row.

    """
    shown, more = found[:limit], len(found) > limit
    return {
        "object": "list",
        "data": [show(row) for row in shown],
        "has_more": more,
        "next_after": cursor_of(shown[-1]) if more else None,
    }


def behind(found: Sequence[Row], after: str | None, cursor_of: Callable[[Row], str]) -> Sequence[Row]:
    """Give the rows of a short listing that was read whole, from behind one on.

    Raises:
        NotFound: that one is not in it.

    """
    if after is None:
        return found
    for place, row in enumerate(found):
        if cursor_of(row) == after:
            return found[place + 1 :]
    raise NotFound(f"after: {after[:80]!r} is not in this listing.", param="after")
