"""Ids in paths and in query parameters."""

from typing import Annotated
from uuid import UUID

from fastapi import Query

from app.errors import NotFound
from app.identifiers import Prefix, read

WHICH = "Which choice, where the path names a response of several."
Choice = Annotated[int | None, Query(ge=0, lt=2**31, description=WHICH)]


def known(prefix: Prefix, text: str) -> UUID:
    """Read an id from a path.

    Raises:
        NotFound: it is not one of this kind.

    """
    try:
        return read(prefix, text)
    except ValueError as error:
        raise NotFound(f"{error}.") from error
