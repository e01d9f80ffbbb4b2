"""Removing what somebody asked to have removed: a user's answers, a session, or one answer.

A removal goes on in batches for some seconds and says whether it is finished; asked again it goes on, or finds nothing
and says the same. It ends with which policies were made from what is removed: weights cannot forget, but they can be
replaced. Leaves out what is removed and what is left (`app.store.removal`).
"""

import time
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse, Response

from app.api.admin.shapes import Erasure as Removed
from app.api.door.answer_ids import find, reaches
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.door.session_ids import known_as, own_session
from app.api.http.fields import Text
from app.api.http.paths import Choice
from app.api.http.transactions import Transactions
from app.api.server import Server, ServerDep
from app.errors import NotFound
from app.identifiers import Prefix, read, show
from app.store import erasure
from app.store.erasure import Subject
from app.store.removed import Erasure

router = APIRouter(tags=["data"])

LONGEST_S: Final = 20.0  # of one request; proxies wait for a minute

MayInfer = Annotated[Caller, Depends(require("infer"))]
MayRule = Annotated[Caller, Depends(require("admin", projects=True))]


@router.delete("/v1/users/{user:path}/data", response_model=Removed)
async def delete_user(user: Text, server: ServerDep, caller: MayRule, key: Text | None = None) -> Response:
    """Remove every answer to requests that named this `user`, with all that was stored of it; repeat until `finished`.

    `key` narrows it to what that key asked; an admin key of a project removes what that project asked.
    """
    subject = Subject(user=user, key_id=key, project_id=caller.project)
    return JSONResponse(await erase(server.control, subject, caller))


@router.delete("/v1/interactions/{interaction_id}", response_model=Removed)
async def delete_interaction(
    interaction_id: Text, server: ServerDep, caller: MayInfer, choice: Choice = None
) -> Response:
    """Remove one answer, with all that was stored of it."""
    subject = await server.traffic.run(lambda session: named(session, server, interaction_id, choice, caller))
    return JSONResponse(await erase(server.traffic, subject, caller))


@router.delete("/v1/sessions/{session_id}", response_model=Removed)
async def delete_session(session_id: Text, server: ServerDep, caller: MayInfer) -> Response:
    """Remove a session, every answer of its turns, and all that was stored of them; repeat until `finished`."""
    known = known_as(server.redactor, caller, session_id)
    subject = await server.traffic.run(lambda session: named_session(session, known, caller))
    return JSONResponse(await erase(server.traffic, subject, caller))


def named_session(session: Session, text: str, caller: Caller) -> Subject:
    """Find the session that is meant, also when it is removed already and its id was named.

    Raises:
        NotFound: there is none that the caller may remove.

    """
    try:
        return Subject(session_id=own_session(session, text, caller).id)
    except NotFound:
        gone = Subject(session_id=read("sess", text)) if is_id(text, "sess") else None
        if gone is None or not erasure.wished(session, gone, None if caller.may("admin") else caller.key_id):
            raise
        return gone


def named(session: Session, server: Server, text: str, choice: int | None, caller: Caller) -> Subject:
    """Find the answer that is meant, also when it is removed already.

    Raises:
        NotFound: there is none that the caller may remove.

    """
    try:
        return Subject(interaction_id=find(session, text, choice, server.underway, caller).id)
    except NotFound:
        stone = erasure.tombstone(session, read("int", text)) if is_id(text) else None
        if stone is None or not reaches(caller, stone.api_key_id, stone.project_id, None, others=False):
            raise
        return Subject(interaction_id=stone.interaction_id)


def is_id(text: str, prefix: Prefix = "int") -> bool:
    """Tell an id of a kind from anything else."""
    try:
        read(prefix, text)
    except ValueError:
        return False
    return True


async def erase(pool: Transactions, subject: Subject, caller: Caller) -> dict[str, Any]:
    """Remove batch after batch, each a transaction of its own, until nothing is left or time is up."""
    wish = (await pool.run(lambda session: erasure.begin(session, subject, caller.key_id))).id
    until = time.monotonic() + LONGEST_S
    while await pool.run(lambda session: erasure.step(session, wish, subject)):
        if time.monotonic() > until:
            break
    return await pool.run(lambda session: erasure_json(session, session.get_one(Erasure, wish), subject))


def erasure_json(session: Session, row: Erasure, subject: Subject) -> dict[str, Any]:
    """Write what came of a wish."""
    return {
        "id": show("erase", row.id),
        "object": "erasure",
        "subject": row.subject,
        "finished": row.finished_at is not None,
        "removed": row.removed,
        "policies": [
            {"version": one.version, "state": one.state, "answers": one.answers}
            for one in erasure.containing(session, subject)
        ],
        "created_at": row.created_at.isoformat(),
    }
