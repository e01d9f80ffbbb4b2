"""Whether the service learns, and if not, why not; freeze and thaw it, pin and unpin what serves.

Leaves out jobs (`app.api.admin.jobs`) and the moves of a policy (`app.api.admin.checkpoints`).
"""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse, Response

from app.api.admin import shapes
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.http.fields import Strict, Text, example
from app.api.http.once import REPEATABLE, once
from app.api.server import ServerDep
from app.settings import Settings
from app.store import jobs, learnable, learning

router = APIRouter(prefix="/v1/admin/learning", tags=["admin"])

MayRule = Annotated[Caller, Depends(require("admin"))]


class Why(Strict):
    """Why a state is changed."""

    model_config = example(reason="grades look odd today")

    reason: Annotated[Text, Field(min_length=1, max_length=500)] = "by an operator"


@router.get("", response_model=shapes.Learning)
async def get_learning(server: ServerDep, _caller: MayRule) -> Response:
    """Say whether an update runs or could begin, and if not, why not."""
    return JSONResponse(await server.control.run(lambda session: learning_json(session, server.settings)))


@router.post("/freeze", response_model=shapes.LearningChanged, dependencies=[REPEATABLE])
async def freeze(request: Request, server: ServerDep, caller: MayRule, body: Why | None = None) -> Response:
    """Begin no update until thawed; one that runs is ended, and what it claimed is given back."""
    why = (body or Why()).reason
    return await changed(server, request, caller, lambda session: learning.freeze(session, caller.key_id, why))


@router.post("/thaw", response_model=shapes.LearningChanged, dependencies=[REPEATABLE])
async def thaw(request: Request, server: ServerDep, caller: MayRule, body: Why | None = None) -> Response:
    """Learn again."""
    why = (body or Why()).reason
    return await changed(server, request, caller, lambda session: learning.thaw(session, caller.key_id, why))


@router.post("/pin", response_model=shapes.LearningChanged, dependencies=[REPEATABLE])
async def pin(request: Request, server: ServerDep, caller: MayRule, body: Why | None = None) -> Response:
    """Keep what serves: nothing is promoted or learned until it is unpinned."""
    why = (body or Why()).reason
    return await changed(server, request, caller, lambda session: learning.pin(session, caller.key_id, why))


@router.post("/unpin", response_model=shapes.LearningChanged, dependencies=[REPEATABLE])
async def unpin(request: Request, server: ServerDep, caller: MayRule, body: Why | None = None) -> Response:
    """Let what serves change again."""
    why = (body or Why()).reason
    return await changed(server, request, caller, lambda session: learning.unpin(session, caller.key_id, why))


async def changed(
    server: ServerDep, request: Request, caller: Caller, change: Callable[[Session], bool]
) -> JSONResponse:
    """Make a change once, and show what is so now."""

    def work(session: Session) -> tuple[int, dict[str, Any]]:
        made = change(session)
        session.flush()
        return 200, {**learning_json(session, server.settings), "changed": made}

    return await once(server.control, request, caller, work)


def learning_json(session: Session, settings: Settings) -> dict[str, Any]:
    """Write the state of learning."""
    row = learning.read(session)
    session.refresh(row)
    running = jobs.running(session)
    outlook = learnable.outlook(session, settings)
    return {
        "object": "learning",
        "running": running is not None,
        "waiting_for": None if running is not None else outlook.words,
        "answers_waiting": learnable.count_waiting(session),
        "frozen": switch_json(row.frozen_at, row.frozen_by, row.frozen_reason),
        "pinned": switch_json(row.pinned_at, row.pinned_by, row.pinned_reason),
        "refusals": row.refusals,
        "rate_scale": row.rate_scale,
        "batch_scale": row.batch_scale,
    }


def switch_json(at: datetime | None, by: str | None, reason: str | None) -> dict[str, Any] | None:
    """Write who switched something on, and why; None while it is off."""
    return None if at is None else {"at": at.isoformat(), "by": by, "reason": reason}
