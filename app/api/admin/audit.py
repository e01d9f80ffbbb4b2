"""`GET /v1/admin/audit`: what operators did. Leaves out writing it down (`app.api.door.audit`)."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse, Response

from app.api.admin.shapes import AuditEntries
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.http.pages import Limit, after_id, cursor, page
from app.api.server import ServerDep
from app.identifiers import show
from app.store.audit import list_audit
from app.store.tenants import AuditEntry

router = APIRouter(prefix="/v1/admin/audit", tags=["admin"])


@router.get("", response_model=AuditEntries)
async def get_audit(
    server: ServerDep,
    caller: Annotated[Caller, Depends(require("admin", projects=True))],
    limit: Limit = 100,
    after: Annotated[str | None, after_id("audit")] = None,
) -> Response:
    """List what operators did, the newest first.

    An admin key of a project sees what that project's keys did.
    """
    begin = cursor("audit", after)
    found = await server.control.run(
        lambda session: list_audit(session, project=caller.project, limit=limit + 1, after=begin)
    )
    return JSONResponse(page(found, limit, entry_json, lambda row: show("audit", row.id)))


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
