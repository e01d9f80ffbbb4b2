"""Ids in paths and in query parameters."""

from uuid import UUID

from app.errors import NotFound
from app.identifiers import Prefix, read


def known(prefix: Prefix, text: str) -> UUID:
    """Read an id from a path.

    Raises:
        NotFound: it is not one of this kind.

    """
    try:
        return read(prefix, text)
    except ValueError as error:
        raise NotFound(f"{error}.") from error
