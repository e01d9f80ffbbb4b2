"""API keys, for operators: make, list, revoke. A key's text is shown once.

Leaves out what a key is (`app.store.keys`).
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import Field
from starlette.responses import JSONResponse, Response

from app.api.auth import require
from app.api.fields import Strict, Text
from app.api.server import ServerDep
from app.store import keys
from app.store.tables import ApiKey

router = APIRouter(prefix="/v1/admin/keys", tags=["admin"], dependencies=[Depends(require("admin"))])

LONGEST_S = 10 * 365 * 24 * 3600


class KeyBody(Strict):
    """A key to be made."""

    name: Annotated[Text, Field(min_length=1, max_length=200)]
    scopes: list[Literal["infer", "grade", "admin"]] = Field(min_length=1, max_length=3)
    expires_in: int | None = Field(None, ge=1, le=LONGEST_S, description="Seconds; left out: never.")


@router.post("", response_model=None, status_code=201)
async def post_key(body: KeyBody, server: ServerDep) -> Response:
    """Make a key; its text is in this answer and nowhere else."""
    expires = (
        None
        if body.expires_in is None
        else datetime.fromtimestamp(datetime.now(UTC).timestamp() + body.expires_in, UTC)
    )
    row, text = await server.control.run(
        lambda session: keys.create_key(session, body.name, body.scopes, expires_at=expires)
    )
    return JSONResponse({**key_json(row), "key": text}, 201)


@router.get("", response_model=None)
async def list_all(server: ServerDep) -> Response:
    """List every key, the oldest first; never their texts."""
    data = await server.control.run(lambda session: [key_json(row) for row in keys.list_keys(session)])
    return JSONResponse({"object": "list", "data": data})


@router.delete("/{key_id}", response_model=None)
async def revoke(key_id: str, server: ServerDep) -> Response:
    """Close a key for good; here at once, on other replicas within seconds."""
    shown = await server.control.run(lambda session: key_json(keys.revoke(session, key_id)))
    server.believed.forget()
    return JSONResponse(shown)


def key_json(row: ApiKey) -> dict[str, Any]:
    """Write a key's public half."""
    times = ("created_at", "expires_at", "revoked_at")
    return {
        "id": row.id,
        "object": "key",
        "name": row.name,
        "scopes": row.scopes,
        **{name: None if (at := getattr(row, name)) is None else at.isoformat() for name in times},
    }
