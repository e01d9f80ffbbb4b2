"""Checkpoints, for operators: what there is, what is served, serve another, go back.

A promotion moves an alias; every server sees it within a second and swaps by itself. Leaves out the swap
(`app.api.policy_watch`).
"""

from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import Field
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse, Response

from app.api.auth import require
from app.api.callers import Caller
from app.api.fields import Strict, Text
from app.api.jobs import known
from app.api.policy_bell import ring
from app.api.server import ServerDep
from app.errors import NotFound
from app.identifiers import show
from app.store import promotions
from app.store.checkpoints import by_version, get_checkpoint, list_checkpoints
from app.store.promotions import PREVIOUS, SERVING
from app.store.swaps import list_swaps
from app.store.tables import Checkpoint, Promotion, Swap

router = APIRouter(prefix="/v1/admin", tags=["admin"])

Reason = Annotated[Text, Field(min_length=1, max_length=500)]
MayRule = Annotated[Caller, Depends(require("admin"))]


class PromoteBody(Strict):
    """Why a checkpoint is to be served."""

    reason: Reason = "promoted by an operator"


class RollbackBody(Strict):
    """Where to go back to, and why."""

    to: str | None = Field(None, description="A checkpoint's id or version; left out: the one served before.")
    reason: Reason = "rolled back by an operator"


@dataclass(frozen=True, slots=True)
class Named:
    """What the aliases point at."""

    serving: Checkpoint | None
    previous: Checkpoint | None


@router.get("/checkpoints", response_model=None)
async def get_list(
    server: ServerDep,
    _caller: MayRule,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before_version: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
) -> Response:
    """List checkpoints, the newest first."""

    def listing(session: Session) -> dict[str, Any]:
        rows = list_checkpoints(session, limit=limit, before_version=before_version)
        aliases = named(session)
        return {"object": "list", "data": [checkpoint_json(row, aliases) for row in rows]}

    return JSONResponse(await server.control.run(listing))


@router.get("/checkpoints/{checkpoint_id}", response_model=None)
async def get_one(checkpoint_id: str, server: ServerDep, _caller: MayRule) -> Response:
    """Read one checkpoint by id or version."""

    def one(session: Session) -> dict[str, Any]:
        return checkpoint_json(get_checkpoint(session, resolve(session, checkpoint_id)), named(session))

    return JSONResponse(await server.control.run(one))


@router.post("/checkpoints/{checkpoint_id}/promote", response_model=None)
async def promote(checkpoint_id: str, server: ServerDep, caller: MayRule, body: PromoteBody | None = None) -> Response:
    """Serve a checkpoint."""
    reason = (body or PromoteBody()).reason

    def move(session: Session) -> dict[str, Any]:
        target = resolve(session, checkpoint_id)
        return moved(session, promotions.promote(session, target, reason, caller.key_id))

    shown = await server.control.run(move)
    await ring(server)
    return JSONResponse(shown)


@router.post("/rollback", response_model=None)
async def rollback(server: ServerDep, caller: MayRule, body: RollbackBody | None = None) -> Response:
    """Serve an earlier checkpoint again."""
    wanted = body or RollbackBody()

    def move(session: Session) -> dict[str, Any]:
        to = None if wanted.to is None else resolve(session, wanted.to)
        return moved(session, promotions.rollback(session, caller.key_id, to, wanted.reason))

    shown = await server.control.run(move)
    await ring(server)
    return JSONResponse(shown)


@router.get("/promotions", response_model=None)
async def get_history(
    server: ServerDep, _caller: MayRule, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> Response:
    """List every change of what is served, the newest first."""
    data = await server.control.run(
        lambda session: [promotion_json(row) for row in promotions.history(session, limit=limit)]
    )
    return JSONResponse({"object": "list", "data": data})


@router.get("/swaps", response_model=None)
async def get_swaps(server: ServerDep, _caller: MayRule, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Response:
    """List every attempt of a server to take new weights, the newest first."""
    data = await server.control.run(lambda session: [swap_json(row) for row in list_swaps(session, limit=limit)])
    return JSONResponse({"object": "list", "data": data})


def resolve(session: Session, text: str) -> UUID:
    """Find a checkpoint by id or by version.

    Raises:
        NotFound: there is none.

    """
    if text.isascii() and text.isdecimal() and len(text) < 19:
        return by_version(session, int(text)).id
    return known("ckpt", text)


def named(session: Session) -> Named:
    """Read both aliases."""
    return Named(promotions.alias(session, SERVING), promotions.alias(session, PREVIOUS))


def moved(session: Session, entry: Promotion | None) -> dict[str, Any]:
    """Write what an alias names now; `changed` is false when it named that before."""
    aliases = named(session)
    if aliases.serving is None:
        raise NotFound("Nothing is served yet.")
    return {**checkpoint_json(aliases.serving, aliases), "changed": entry is not None}


def checkpoint_json(row: Checkpoint, aliases: Named) -> dict[str, Any]:
    """Write a checkpoint with the aliases that name it."""
    pairs = ((SERVING, aliases.serving), (PREVIOUS, aliases.previous))
    return {
        "id": show("ckpt", row.id),
        "object": "checkpoint",
        "version": row.version,
        "status": row.status,
        "aliases": [name for name, target in pairs if target is not None and target.id == row.id],
        "parent_id": None if row.parent_id is None else show("ckpt", row.parent_id),
        "job_id": None if row.job_id is None else show("job", row.job_id),
        "path": row.path,
        "digest": row.digest,
        "metrics": row.metrics,
        "created_at": row.created_at.isoformat(),
    }


def promotion_json(row: Promotion) -> dict[str, Any]:
    """Write one change of an alias."""
    return {
        "id": show("promo", row.id),
        "object": "promotion",
        "alias": row.alias,
        "from": None if row.from_checkpoint_id is None else show("ckpt", row.from_checkpoint_id),
        "to": show("ckpt", row.to_checkpoint_id),
        "reason": row.reason,
        "actor": row.actor,
        "created_at": row.created_at.isoformat(),
    }


def swap_json(row: Swap) -> dict[str, Any]:
    """Write one attempt at a swap."""
    plain = ("replica", "from_version", "to_version", "status", "staged_ms", "pause_ms", "pause_steps")
    return {
        "id": show("swap", row.id),
        "object": "swap",
        **{name: getattr(row, name) for name in plain},
        "fingerprint": row.fingerprint,
        "error": row.error,
        "created_at": row.created_at.isoformat(),
    }
