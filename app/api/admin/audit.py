"""`GET /v1/admin/audit`: what operators did. Leaves out writing it down (`app.api.door.audit`)."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.responses import JSONResponse, Response

from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.http.paths import known
from app.api.server import ServerDep
from app.identifiers import show
from app.store.audit import list_audit
from app.store.tenants import AuditEntry

router = APIRouter(prefix="/v1/admin/audit", tags=["admin"])


@router.get("", response_model=None)
async def get_audit(
    server: ServerDep,
    caller: Annotated[Caller, Depends(require("admin", projects=True))],
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: str | None = None,
) -> Response:
    """List what operators did, the newest first; continue with `next_after` as `after`.

    An admin key of a project sees what that project's keys did.
    """
    begin = None if after is None else known("audit", after)
    found = await server.control.run(
        lambda session: list_audit(session, project=caller.project, limit=limit + 1, after=begin)
    )
    shown, more = found[:limit], len(found) > limit
    return JSONResponse(
        {
            "object": "list",
            "data": [entry_json(row) for row in shown],
            "has_more": more,
            "next_after": show("audit", shown[-1].id) if more else None,
        }
    )


def entry_json(row: AuditEntry) -> dict[str, Any]:
    """Write one entry; `outcome` is null while it goes on, and for ever where a crash cut it off."""
    return {
        "id": show("audit", row.id),
        "object": "audit.entry",
        "actor": row.actor,
        "project": row.project_id,
        "action": row.action,
        "target": row.target,
        "outcome": row.outcome,
        "request_id": row.request_id,
        "created_at": row.created_at.isoformat(),
    }
