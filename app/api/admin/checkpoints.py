"""Policies, for operators: what there is, what serves, what is in it, and every move of its life.

A move changes a row; every server sees what serves within a second and swaps by itself. Every move takes an
`Idempotency-Key`, and changes nothing when it is made already. Leaves out the swap (`app.api.policy.watch`), and
freezing and pinning (`app.api.admin.learning`).
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse, Response

from app.api.admin.moves import Moved, checkpoint_json, moved, resolve
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.http.fields import Strict, Text
from app.api.http.paths import known
from app.api.server import ServerDep
from app.identifiers import show
from app.store import lineage, policy_life
from app.store.checkpoints import get_checkpoint, list_checkpoints
from app.store.policy_life import State
from app.store.swaps import list_swaps
from app.store.tables import Checkpoint, Swap, Transition

router = APIRouter(prefix="/v1/admin", tags=["admin"])

Reason = Annotated[Text, Field(min_length=1, max_length=500)]
MayRule = Annotated[Caller, Depends(require("admin"))]


class PromoteBody(Strict):
    """Why a checkpoint is to be served."""

    reason: Reason = "promoted by an operator"
    expect: str | None = Field(None, description="Id or version of what must be serving; another one is a 409.")


class DiscardBody(Strict):
    """Why a policy that waits for a decision is not wanted."""

    reason: Reason = "discarded by an operator"


class RollbackBody(Strict):
    """Where to go back to, and why."""

    to: str | None = Field(
        None, description="Id or version of one that served; left out: the last before the serving one's promotion."
    )
    reason: Reason = "rolled back by an operator"


@router.get("/checkpoints", response_model=None)
async def get_list(
    server: ServerDep,
    _caller: MayRule,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before_version: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
    state: State | None = None,
) -> Response:
    """List checkpoints, the newest first."""

    def listing(session: Session) -> dict[str, Any]:
        rows = list_checkpoints(session, limit=limit, before_version=before_version, state=state)
        return {"object": "list", "data": [checkpoint_json(row) for row in rows]}

    return JSONResponse(await server.control.run(listing))


@router.get("/checkpoints/{checkpoint_id}", response_model=None)
async def get_one(checkpoint_id: str, server: ServerDep, _caller: MayRule) -> Response:
    """Read one checkpoint by id or version, with its history."""

    def one(session: Session) -> dict[str, Any]:
        row = get_checkpoint(session, resolve(session, checkpoint_id))
        past = policy_life.history(session, checkpoint_id=row.id)
        return {**checkpoint_json(row), "transitions": [transition_json(entry) for entry in past]}

    return JSONResponse(await server.control.run(one))


@router.get("/checkpoints/{checkpoint_id}/lineage", response_model=None)
async def get_lineage(checkpoint_id: str, server: ServerDep, _caller: MayRule) -> Response:
    """Say what a policy contains: its ancestors, and the answers and grades that went into them.

    The answers themselves: `GET /v1/interactions?learned_by=<version>`.
    """

    def found(session: Session) -> dict[str, Any]:
        row = get_checkpoint(session, resolve(session, checkpoint_id))
        return lineage_json(row, lineage.ancestors(session, row.id), lineage.contents(session, row.id))

    return JSONResponse(await server.control.run(found))


@router.post("/checkpoints/{checkpoint_id}/promote", response_model=None)
async def promote(
    checkpoint_id: str, request: Request, server: ServerDep, caller: MayRule, body: PromoteBody | None = None
) -> Response:
    """Serve a checkpoint."""
    wanted = body or PromoteBody()

    def move(session: Session) -> Moved:
        target = resolve(session, checkpoint_id)
        expected = None if wanted.expect is None else resolve(session, wanted.expect)
        return policy_life.promote(session, target, wanted.reason, caller.key_id, expected=expected)

    return await moved(server, request, caller, move)


@router.post("/checkpoints/{checkpoint_id}/discard", response_model=None)
async def discard(
    checkpoint_id: str, request: Request, server: ServerDep, caller: MayRule, body: DiscardBody | None = None
) -> Response:
    """Turn down a policy that is held, in shadow or in canary; the answers it was made from are given back."""
    wanted = body or DiscardBody()

    def move(session: Session) -> Moved:
        return policy_life.discard(session, resolve(session, checkpoint_id), wanted.reason, caller.key_id)

    return await moved(server, request, caller, move)


@router.post("/rollback", response_model=None)
async def rollback(request: Request, server: ServerDep, caller: MayRule, body: RollbackBody | None = None) -> Response:
    """Serve an earlier checkpoint again, and freeze learning until it is thawed."""
    wanted = body or RollbackBody()

    def move(session: Session) -> Moved:
        to = None if wanted.to is None else resolve(session, wanted.to)
        return policy_life.rollback(session, caller.key_id, to, wanted.reason)

    return await moved(server, request, caller, move)


@router.get("/transitions", response_model=None)
async def get_history(
    server: ServerDep,
    _caller: MayRule,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: str | None = None,
) -> Response:
    """List every move of every policy, the newest first; continue with the last one's id as `after`."""
    begin = None if after is None else known("move", after)
    data = await server.control.run(
        lambda session: [transition_json(row) for row in policy_life.history(session, limit=limit, before=begin)]
    )
    return JSONResponse({"object": "list", "data": data, "has_more": len(data) == limit})


@router.get("/swaps", response_model=None)
async def get_swaps(server: ServerDep, _caller: MayRule, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Response:
    """List every attempt of a server to take new weights, the newest first."""
    data = await server.control.run(lambda session: [swap_json(row) for row in list_swaps(session, limit=limit)])
    return JSONResponse({"object": "list", "data": data})


def lineage_json(row: Checkpoint, ancestors: list[lineage.Ancestor], contents: lineage.Contents) -> dict[str, Any]:
    """Write a lineage."""
    return {
        "object": "lineage",
        "checkpoint_id": show("ckpt", row.id),
        "version": row.version,
        "contents": {
            "answers": contents.answers,
            "by_key": contents.by_key,
            "by_grader": contents.by_grader,
            "first_answer_at": None if contents.first_answer_at is None else contents.first_answer_at.isoformat(),
            "last_answer_at": None if contents.last_answer_at is None else contents.last_answer_at.isoformat(),
        },
        "ancestors": [
            {
                "id": show("ckpt", one.checkpoint.id),
                "version": one.checkpoint.version,
                "state": one.checkpoint.state,
                "job_id": None if one.checkpoint.job_id is None else show("job", one.checkpoint.job_id),
                "learned": one.learned,
                "reward": one.reward,
                "config": one.config,
                "created_at": one.checkpoint.created_at.isoformat(),
            }
            for one in ancestors
        ],
    }


def transition_json(row: Transition) -> dict[str, Any]:
    """Write one move."""
    return {
        "id": show("move", row.id),
        "object": "transition",
        "checkpoint_id": show("ckpt", row.checkpoint_id),
        "from": row.from_state,
        "to": row.to_state,
        "event": row.event,
        "replaced_id": None if row.replaced_id is None else show("ckpt", row.replaced_id),
        "reason": row.reason,
        "actor": row.actor,
        "figures": row.figures,
        "job_id": None if row.job_id is None else show("job", row.job_id),
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
