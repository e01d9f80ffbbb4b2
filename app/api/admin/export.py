"""`GET /v1/admin/export`: answers as JSON lines, streamed, for as long as the reader reads.

Each page is a transaction of its own, read when the one before has left, so a slow reader holds nothing. A stream that
breaks off is not ended properly (clients see it); go on with the last whole line's id as `after`. Leaves out the
records (`app.store.export`).
"""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Depends
from starlette.responses import Response, StreamingResponse

from app.api.admin.shapes import ExportedAnswer
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.http.filters import Place, Wanted
from app.api.server import Server, ServerDep
from app.identifiers import read
from app.store.base import Json
from app.store.export import page
from app.store.interactions import Filters

LINE: Final = {"$ref": f"#/components/schemas/{ExportedAnswer.__name__}"}
LINES: Final[dict[str, Any]] = {"content": {"application/x-ndjson": {"itemSchema": LINE}}}

router = APIRouter(prefix="/v1/admin", tags=["data"])


class Lines(StreamingResponse):
    """JSON objects, one a line."""

    media_type = "application/x-ndjson"


@router.get("/export", response_model=None, response_class=Lines, responses={200: LINES})
async def export(
    server: ServerDep,
    caller: Annotated[Caller, Depends(require("admin", projects=True))],
    filters: Wanted,
    after: Place,
    rollouts: bool = False,
) -> Response:
    """Stream answers with their grades and what became of them, the oldest first, one JSON object a line."""
    filters = replace(filters, project_id=caller.project)
    first = await read_page(server, filters, after, rollouts=rollouts)  # so that what is wrong is still a status
    body = lines(server, filters, first, rollouts=rollouts)
    return Lines(body)


async def lines(server: Server, filters: Filters, found: list[Json], *, rollouts: bool) -> AsyncIterator[bytes]:
    """Give page after page as lines."""
    while found:
        yield "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in found).encode()
        found = await read_page(server, filters, read("int", found[-1]["id"]), rollouts=rollouts)


async def read_page(server: Server, filters: Filters, after: UUID | None, *, rollouts: bool) -> list[Json]:
    """Read a page."""
    return await server.control.run(lambda session: page(session, filters, after, rollouts=rollouts))
