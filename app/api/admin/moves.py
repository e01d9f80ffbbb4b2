"""How a policy is moved, whatever the move: which one is meant, made once, told to the servers, shown."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from fastapi import Request
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse

from app.api.door.callers import Caller
from app.api.http.once import once
from app.api.http.paths import known
from app.api.policy.bell import ring
from app.api.server import ServerDep
from app.errors import NotFound
from app.identifiers import show
from app.store import policy_life
from app.store.checkpoints import by_version
from app.store.tables import Checkpoint, Transition

Moved = Transition | None


async def moved(server: ServerDep, request: Request, caller: Caller, move: Callable[[Session], Moved]) -> JSONResponse:
    """Make a move once, tell servers, and show what serves; `changed` is false where the wish was true already."""

    def work(session: Session) -> tuple[int, dict[str, Any]]:
        entry = move(session)
        now = policy_life.serving(session)
        if now is None:
            raise NotFound("Nothing is served yet.")
        return 200, {**checkpoint_json(now), "changed": entry is not None}

    answer = await once(server.control, request, caller, work)
    await ring(server)
    return answer


def resolve(session: Session, text: str) -> UUID:
    """Find a checkpoint by id or by version.

    Raises:
        NotFound: there is none.

    """
    if text.isascii() and text.isdecimal() and len(text) < 19:
        return by_version(session, int(text)).id
    return known("ckpt", text)


def checkpoint_json(row: Checkpoint) -> dict[str, Any]:
    """Write a checkpoint."""
    return {
        "id": show("ckpt", row.id),
        "object": "checkpoint",
        "version": row.version,
        "state": row.state,
        "parent_id": None if row.parent_id is None else show("ckpt", row.parent_id),
        "job_id": None if row.job_id is None else show("job", row.job_id),
        "path": row.path,
        "digest": row.digest,
        "metrics": row.metrics,
        "files_deleted_at": None if row.files_deleted_at is None else row.files_deleted_at.isoformat(),
        "created_at": row.created_at.isoformat(),
    }
