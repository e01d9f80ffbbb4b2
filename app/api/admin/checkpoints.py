"""Policies, for operators: what there is, what serves, what is in it, and every move of its life.

A move changes a row; every server sees what serves within a second and swaps by itself. Every move takes an
`Idempotency-Key`, and changes nothing when it is made already. Leaves out the swap (`app.api.policy.watch`), and
freezing and pinning (`app.api.admin.learning`).
"""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse, Response

from app.api.admin import policy_shapes as shapes
from app.api.admin.moves import Moved, checkpoint_json, moved, resolve
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.http.fields import Strict, Text, example
from app.api.http.once import REPEATABLE
from app.api.http.pages import AFTER, NO_PLACE, Limit, after_id, cursor, page
from app.api.http.shapes import links
from app.api.server import ServerDep
from app.identifiers import show
from app.store import lineage, policy_life
from app.store.checkpoints import get_checkpoint, list_checkpoints
from app.store.policy_life import State
from app.store.swaps import list_swaps
from app.store.tables import Checkpoint, Swap, Transition

router = APIRouter(prefix="/v1/admin", tags=["admin"])

Reason = Annotated[Text, Field(min_length=1, max_length=500)]
OF_POLICY: Final = ("get_policy", "get_lineage", "promote", "discard")
FORM: Final = {"pattern": "^(ckpt_[0-9a-f]{32}|[0-9]{1,18})$"}
ID_OR_VERSION: Final = Query(description=AFTER, json_schema_extra=dict(FORM))
UNKNOWN: Final[dict[str, Any]] = {"description": "There is no such policy."}
MayRule = Annotated[Caller, Depends(require("admin"))]


class PromoteBody(Strict):
    """Why a checkpoint is to be served."""

    model_config = example(reason="better on our own questions")

    reason: Reason = "promoted by an operator"
    expect: str | None = Field(None, description="Id or version of what must be serving; another one is a 409.")


class DiscardBody(Strict):
    """Why a policy that waits for a decision is not wanted."""

    model_config = example(reason="worse on our own questions")

    reason: Reason = "discarded by an operator"


class RollbackBody(Strict):
    """Where to go back to, and why."""

    model_config = example(reason="answers are too short")

    to: str | None = Field(
        None, description="Id or version of one that served; left out: the last before the serving one's promotion."
    )
    reason: Reason = "rolled back by an operator"


@router.get(
    "/checkpoints",
    response_model=shapes.Checkpoints,
    responses={
        404: NO_PLACE,
        200: links("get_policy", "get_lineage", "promote", "discard", checkpoint_id="/data/0/id"),
    },
)
async def list_policies(
    server: ServerDep,
    _caller: MayRule,
    limit: Limit = 100,
    after: Annotated[str | None, ID_OR_VERSION] = None,
    state: State | None = None,
) -> Response:
    """List checkpoints, the newest first; `after` takes an id or a version."""

    def listing(session: Session) -> dict[str, Any]:
        before = None if after is None else get_checkpoint(session, resolve(session, after)).version
        rows = list_checkpoints(session, limit=limit + 1, before_version=before, state=state)
        return page(rows, limit, checkpoint_json, lambda row: show("ckpt", row.id))

    return JSONResponse(await server.control.run(listing))


@router.get("/checkpoints/{checkpoint_id}", response_model=shapes.CheckpointRead)
async def get_policy(checkpoint_id: Text, server: ServerDep, _caller: MayRule) -> Response:
    """Read one checkpoint by id or version, with its history."""

    def one(session: Session) -> dict[str, Any]:
        row = get_checkpoint(session, resolve(session, checkpoint_id))
        past = policy_life.history(session, checkpoint_id=row.id)
        return {**checkpoint_json(row), "transitions": [transition_json(entry) for entry in past]}

    return JSONResponse(await server.control.run(one))


@router.get("/checkpoints/{checkpoint_id}/lineage", response_model=shapes.Lineage)
async def get_lineage(checkpoint_id: Text, server: ServerDep, _caller: MayRule) -> Response:
    """Say what a policy contains: its ancestors, and the answers and grades that went into them.

    The answers themselves: `GET /v1/interactions?learned_by=<version>`.
    """

    def found(session: Session) -> dict[str, Any]:
        row = get_checkpoint(session, resolve(session, checkpoint_id))
        return lineage_json(row, lineage.ancestors(session, row.id), lineage.contents(session, row.id))

    return JSONResponse(await server.control.run(found))


@router.post("/checkpoints/{checkpoint_id}/promote", response_model=shapes.PolicyMoved, dependencies=[REPEATABLE])
async def promote(
    checkpoint_id: Text, request: Request, server: ServerDep, caller: MayRule, body: PromoteBody | None = None
) -> Response:
    """Serve a checkpoint."""
    wanted = body or PromoteBody()

    def move(session: Session) -> Moved:
        target = resolve(session, checkpoint_id)
        expected = None if wanted.expect is None else resolve(session, wanted.expect)
        return policy_life.promote(session, target, wanted.reason, caller.key_id, expected=expected)

    return await moved(server, request, caller, move)


@router.post("/checkpoints/{checkpoint_id}/discard", response_model=shapes.PolicyMoved, dependencies=[REPEATABLE])
async def discard(
    checkpoint_id: Text, request: Request, server: ServerDep, caller: MayRule, body: DiscardBody | None = None
) -> Response:
    """Turn down a policy that is held, in shadow or in canary; the answers it was made from are given back."""
    wanted = body or DiscardBody()

    def move(session: Session) -> Moved:
        return policy_life.discard(session, resolve(session, checkpoint_id), wanted.reason, caller.key_id)

    return await moved(server, request, caller, move)


@router.post(
    "/rollback",
    response_model=shapes.PolicyMoved,
    dependencies=[REPEATABLE],
    responses={404: UNKNOWN},
)
async def rollback(request: Request, server: ServerDep, caller: MayRule, body: RollbackBody | None = None) -> Response:
    """Serve an earlier checkpoint again, and freeze learning until it is thawed."""
    wanted = body or RollbackBody()

    def move(session: Session) -> Moved:
        to = None if wanted.to is None else resolve(session, wanted.to)
        return policy_life.rollback(session, caller.key_id, to, wanted.reason)

    return await moved(server, request, caller, move)


@router.get("/transitions", response_model=shapes.Moves, responses={404: NO_PLACE})
async def list_moves(
    server: ServerDep, _caller: MayRule, limit: Limit = 100, after: Annotated[str | None, after_id("move")] = None
) -> Response:
    """List every move of every policy, the newest first."""
    begin = cursor("move", after)

    def listing(session: Session) -> dict[str, Any]:
        rows = policy_life.history(session, limit=limit + 1, before=begin)
        return page(rows, limit, transition_json, lambda row: show("move", row.id))

    return JSONResponse(await server.control.run(listing))


@router.get("/swaps", response_model=shapes.Swaps)
async def get_swaps(
    server: ServerDep, _caller: MayRule, limit: Limit = 100, after: Annotated[str | None, after_id("swap")] = None
) -> Response:
    """List every attempt of a server to take new weights, the newest first."""
    begin = cursor("swap", after)
    rows = await server.control.run(lambda session: list_swaps(session, limit=limit + 1, before=begin))
    return JSONResponse(page(rows, limit, swap_json, lambda row: show("swap", row.id)))


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
