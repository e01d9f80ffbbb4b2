"""API keys, for operators: make, list, revoke, trust and quarantine. A key's text is shown once.

Leaves out what a key is (`app.store.keys`) and what trust does (`app.store.trust`).
"""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import Field
from starlette.responses import JSONResponse, Response

from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.http.fields import Strict, Text
from app.api.server import ServerDep
from app.store import keys, trust
from app.store.tables import ApiKey

router = APIRouter(prefix="/v1/admin/keys", tags=["admin"], dependencies=[Depends(require("admin"))])

MayRule = Annotated[Caller, Depends(require("admin"))]

LONGEST_S = 10 * 365 * 24 * 3600


class KeyBody(Strict):
    """A key to be made."""

    name: Annotated[Text, Field(min_length=1, max_length=200)]
    scopes: list[Literal["infer", "grade", "admin"]] = Field(min_length=1, max_length=3)
    expires_in: int | None = Field(None, ge=1, le=LONGEST_S, description="Seconds; left out: never.")


class TrustBody(Strict):
    """What a key's grades are to count for."""

    trust: trust.Trust
    reason: Annotated[Text, Field(min_length=1, max_length=500)] = "by an operator"


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


@router.post("/{key_id}/trust", response_model=None)
async def post_trust(key_id: str, body: TrustBody, server: ServerDep, caller: MayRule) -> Response:
    """Trust a key, put it in quarantine (its grades are kept and count for nothing), or make it ordinary again."""
    shown = await server.control.run(
        lambda session: key_json(trust.set_trust(session, key_id, body.trust, caller.key_id, body.reason))
    )
    return JSONResponse(shown)


@router.get("/agreement", response_model=None)
async def get_agreement(server: ServerDep) -> Response:
    """Say how far each key's newest grades agree with those by trusted keys, those first that disagree most."""
    low, high = server.settings.reward_low, server.settings.reward_high
    found = await server.control.run(lambda session: trust.agreement(session, low, high))
    return JSONResponse({"object": "list", "data": [asdict(one) for one in found]})


def key_json(row: ApiKey) -> dict[str, Any]:
    """Write a key's public half."""
    times = ("created_at", "expires_at", "revoked_at", "trust_at")
    return {
        "id": row.id,
        "object": "key",
        "name": row.name,
        "scopes": row.scopes,
        "trust": row.trust,
        "trust_by": row.trust_by,
        "trust_reason": row.trust_reason,
        **{name: None if (at := getattr(row, name)) is None else at.isoformat() for name in times},
    }
