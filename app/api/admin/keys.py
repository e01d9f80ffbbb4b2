"""API keys, for operators: make, list, limit, revoke, trust and quarantine. A key's text is shown once.

An admin key of a project sees and changes that project's keys, and makes keys for it; others are not there for it.
Leaves out what a key is (`app.store.keys`) and what trust does (`app.store.trust`).
"""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse, Response

from app.api.admin import shapes
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.http.fields import COUNTED, Strict, Text, example
from app.api.http.pages import NO_PLACE, After, Limit, behind, page
from app.api.http.shapes import links
from app.api.server import ServerDep
from app.errors import NotFound
from app.store import keys, trust
from app.store.tables import ApiKey

router = APIRouter(prefix="/v1/admin/keys", tags=["admin"])

MayRule = Annotated[Caller, Depends(require("admin", projects=True))]

LONGEST_S = 10 * 365 * 24 * 3600
LIMITS = ("requests_per_minute", "tokens_per_minute", "max_choices")


class KeyLimitsBody(Strict):
    """Limits of a key to be changed: 0 is no bound, null what the settings say; what is left out stays."""

    model_config = example(requests_per_minute=600)

    requests_per_minute: Annotated[int, Field(ge=0, lt=2**63), COUNTED] | None = None
    tokens_per_minute: Annotated[int, Field(ge=0, lt=2**63), COUNTED] | None = None
    max_choices: Annotated[int, Field(ge=0, lt=2**31), COUNTED] | None = Field(
        None, description="Largest `n`, times the number of prompts."
    )


class KeyBody(KeyLimitsBody):
    """A key to be made."""

    model_config = example(name="shop", scopes=["infer", "grade"])

    name: Annotated[Text, Field(min_length=1, max_length=200)]
    scopes: list[Literal["infer", "grade", "admin"]] = Field(min_length=1, max_length=3)
    expires_in: Annotated[int, Field(ge=1, le=LONGEST_S), COUNTED] | None = Field(
        None, description="Seconds; left out: never."
    )
    project: Annotated[Text, Field(max_length=200)] | None = Field(
        None,
        description="Whose key it is. Left out: the caller's own project; made by a key of the service, an admin key "
        "rules the service too, and any other belongs to the default project.",
    )


class TrustBody(Strict):
    """What a key's grades are to count for."""

    model_config = example(trust="trusted", reason="our own graders")

    trust: trust.Trust
    reason: Annotated[Text, Field(min_length=1, max_length=500)] = "by an operator"


@router.post(
    "",
    response_model=shapes.KeyMade,
    status_code=201,
    responses={
        404: {"description": "There is no such project."},
        201: links("patch_key", "post_trust", "revoke_key", key_id="/id"),
    },
)
async def post_key(body: KeyBody, request: Request, server: ServerDep, caller: MayRule) -> Response:
    """Make a key; its text is in this answer and nowhere else."""
    now = datetime.now(UTC).timestamp()
    expires = None if body.expires_in is None else datetime.fromtimestamp(now + body.expires_in, UTC)
    project = body.project or caller.project
    if project is not None and not caller.sees(project):
        raise NotFound(f"There is no project {project[:80]}; see: lepo projects list", param="project")

    def make(session: Session) -> tuple[ApiKey, str]:
        row, text = keys.create_key(session, body.name, body.scopes, expires_at=expires, project=project)
        limit(row, body.model_dump(include=set(LIMITS)))
        session.flush()
        return row, text

    row, text = await server.control.run(make)
    request.state.audit_target = row.id
    return JSONResponse({**key_json(row), "key": text}, 201)


@router.get("", response_model=shapes.Keys, responses={404: NO_PLACE})
async def list_keys(server: ServerDep, caller: MayRule, limit: Limit = 100, after: After = None) -> Response:
    """List keys, the oldest first; never their texts."""

    def listing(session: Session) -> dict[str, Any]:
        found = behind(keys.list_keys(session, caller.project), after, lambda row: row.id)
        return page(found, limit, key_json, lambda row: row.id)

    return JSONResponse(await server.control.run(listing))


@router.patch("/{key_id}", response_model=shapes.Key)
async def patch_key(key_id: Text, body: KeyLimitsBody, server: ServerDep, caller: MayRule) -> Response:
    """Change a key's limits; here at once, on other replicas within seconds."""

    def change(session: Session) -> dict[str, Any]:
        row = keys.locked(session, key_id, caller.project)
        limit(row, body.model_dump(exclude_unset=True))
        session.flush()
        return key_json(row)

    shown = await server.control.run(change)
    server.believed.forget()
    return JSONResponse(shown)


@router.delete("/{key_id}", response_model=shapes.Key)
async def revoke_key(key_id: Text, server: ServerDep, caller: MayRule) -> Response:
    """Close a key for good; here at once, on other replicas within seconds."""
    shown = await server.control.run(lambda session: key_json(keys.revoke(session, key_id, caller.project)))
    server.believed.forget()
    return JSONResponse(shown)


@router.post("/{key_id}/trust", response_model=shapes.Key)
async def post_trust(key_id: Text, body: TrustBody, server: ServerDep, caller: MayRule) -> Response:
    """Trust a key, put it in quarantine (its grades are kept and count for nothing), or make it ordinary again."""

    def change(session: Session) -> dict[str, Any]:
        return key_json(trust.set_trust(session, key_id, body.trust, caller.key_id, body.reason, caller.project))

    return JSONResponse(await server.control.run(change))


@router.get("/agreement", response_model=shapes.Agreements, responses={404: NO_PLACE})
async def get_agreement(server: ServerDep, caller: MayRule, limit: Limit = 100, after: After = None) -> Response:
    """Say how far each key's newest grades agree with those by trusted keys, those first that disagree most."""
    low, high = server.settings.reward_low, server.settings.reward_high
    found = await server.control.run(lambda session: trust.agreement(session, low, high, caller.project))
    rest = behind(found, after, lambda one: one.key_id)
    return JSONResponse(page(rest, limit, asdict, lambda one: one.key_id))


def limit(row: ApiKey, limits: dict[str, Any]) -> None:
    """Set limits of a key."""
    for name, value in limits.items():
        setattr(row, name, value)


def key_json(row: ApiKey) -> dict[str, Any]:
    """Write a key's public half."""
    times = ("created_at", "expires_at", "revoked_at", "trust_at")
    return {
        "id": row.id,
        "object": "key",
        "name": row.name,
        "project": row.project_id,
        "scopes": row.scopes,
        "limits": {name: getattr(row, name) for name in LIMITS},
        "trust": row.trust,
        "trust_by": row.trust_by,
        "trust_reason": row.trust_reason,
        **{name: None if (at := getattr(row, name)) is None else at.isoformat() for name in times},
    }
