"""Which answers a listing or an export shows, as query parameters. Leaves out what they select (`app.store`)."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import Depends, Query
from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from app.api.http.fields import Text
from app.api.http.pages import after_id, cursor
from app.store.interactions import Filters

Version = Annotated[int | None, Query(ge=0, lt=2**63)]

WRITTEN: Final = re.compile(r"[0-9]{4}-")
DATES: Final = {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "string", "format": "date"}]}


def dated(text: Any) -> Any:
    """Let a time through that is written as a date; a number of seconds could be of any unit.

    Raises:
        PydanticCustomError: it is not.

    """
    if isinstance(text, str) and not WRITTEN.match(text):
        raise PydanticCustomError("invalid_value", "must be a time in ISO 8601, such as 2026-01-31T12:00:00Z")
    return text


Moment = Annotated[datetime, BeforeValidator(dated), WithJsonSchema(DATES)]


async def wanted(
    since: Moment | None = None,
    until: Moment | None = None,
    graded: bool | None = None,
    policy_version: Version = None,
    user: Text | None = None,
    completion_id: Text | None = None,
    key: Text | None = None,
    learned_by: Version = None,
) -> Filters:
    """Read the conditions; a time without a zone is UTC.

    `learned_by` shows the answers that the policy of that version was made from.
    """
    return Filters(
        since=in_utc(since),
        until=in_utc(until),
        graded=graded,
        api_key_id=key,
        completion_id=completion_id,
        policy_version=policy_version,
        user_tag=user,
        learned_by=learned_by,
    )


def in_utc(at: datetime | None) -> datetime | None:
    """Take a time without a zone as UTC, whatever the zone of this machine or the database's is."""
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at


async def place(after: Annotated[str | None, after_id("int")] = None) -> UUID | None:
    """Read where to go on: the id of the last answer there was.

    Raises:
        BadRequest: that is no id of an answer.

    """
    return cursor("int", after)


Wanted = Annotated[Filters, Depends(wanted)]
Place = Annotated[UUID | None, Depends(place)]
