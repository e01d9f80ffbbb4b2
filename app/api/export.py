"""`GET /v1/admin/export`: answers as JSON lines, streamed, for as long as the reader reads.

Each page is a transaction of its own, read when the one before has left, so a slow reader holds nothing. A stream that
breaks off is not ended properly (clients see it); go on with the last whole line's id as `after`. Leaves out the
records (`app.store.export`).
"""

import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response, StreamingResponse

from app.api.auth import require
from app.api.callers import Caller
from app.api.server import Server, ServerDep
from app.errors import BadRequest
from app.identifiers import read
from app.store.base import Json
from app.store.export import page
from app.store.interactions import Filters

router = APIRouter(prefix="/v1/admin", tags=["data"])


@router.get("/export", response_model=None)
async def export(
    server: ServerDep,
    _caller: Annotated[Caller, Depends(require("admin"))],
    after: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    graded: bool | None = None,
    policy_version: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
    user: str | None = None,
    completion_id: str | None = None,
    key: str | None = None,
    learned_by: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
    rollouts: bool = False,
) -> Response:
    """Stream answers with their grades and what became of them, the oldest first, one JSON object a line."""
    filters = Filters(
        since=since,
        until=until,
        graded=graded,
        api_key_id=key,
        completion_id=completion_id,
        policy_version=policy_version,
        user_tag=user,
        learned_by=learned_by,
    )
    try:
        begin = None if after is None else read("int", after)
    except ValueError as error:
        raise BadRequest(f"after: {error}.", param="after") from error
    first = await read_page(server, filters, begin, rollouts=rollouts)  # so that what is wrong is still a status
    body = lines(server, filters, first, rollouts=rollouts)
    return StreamingResponse(body, media_type="application/x-ndjson")


async def lines(server: Server, filters: Filters, found: list[Json], *, rollouts: bool) -> AsyncIterator[bytes]:
    """Give page after page as lines."""
    while found:
        yield "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in found).encode()
        found = await read_page(server, filters, read("int", found[-1]["id"]), rollouts=rollouts)


async def read_page(server: Server, filters: Filters, after: UUID | None, *, rollouts: bool) -> list[Json]:
    """Read a page."""
    return await server.control.run(lambda session: page(session, filters, after, rollouts=rollouts))
