"""Applying a request once, however often it is sent: the `Idempotency-Key` header in front of one transaction.

A key stands for one request: its method, path, query string and body. The key's row and the effect commit together, so
there is no state in between to clean up: a second request with the same key waits for the first and gets its answer;
one that comes while the row is held elsewhere gets 409. Leaves out the rules themselves (`app.store.idempotency`).
"""

import hashlib
from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import Depends, Header, Request
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse

from app.api.door.callers import Caller
from app.api.http.transactions import Transactions
from app.errors import BadRequest
from app.store.idempotency import LONGEST_KEY, Begun, begin, finish

Outcome = tuple[int, dict[str, Any]]  # status and body
KEY_WORDS: Final = "Names one request: sent again under it, it is not done again and gets the first answer."
KEY_FORM: Final = {"minLength": 1, "maxLength": LONGEST_KEY}


async def key_of_request(
    idempotency_key: Annotated[str | None, Header(description=KEY_WORDS, json_schema_extra=KEY_FORM)] = None,
) -> None:
    """Describe the header of a route that does its work by `once`, which reads it."""


REPEATABLE: Final = Depends(key_of_request)  # among the `dependencies` of such a route


async def once(
    pool: Transactions, request: Request, caller: Caller, work: Callable[[Session], Outcome]
) -> JSONResponse:
    """Do work in one transaction and answer; a repeated key gets the first answer again.

    Raises:
        BadRequest: the key is empty or too long.
        Unprocessable: the key was used for another request.
        Conflict: the first request with it is still running.

    """
    key = request.headers.get("idempotency-key")
    if key is None:
        status, body = await pool.run(work)
        return JSONResponse(body, status)
    if not 1 <= len(key) <= LONGEST_KEY:
        raise BadRequest(f"Idempotency-Key must have 1 to {LONGEST_KEY} characters.", param="Idempotency-Key")
    owner = caller.key_id if caller.only is None else f"{caller.key_id}/{caller.only.hex}"
    asked = f"{request.method} {request.url.path}?{request.url.query}"  # as sent: which grade a DELETE means is there
    digest = hashlib.sha256(await request.body()).digest()

    def apply(session: Session) -> Outcome:
        begun = begin(session, owner, key, asked, digest)
        if not isinstance(begun, Begun):
            return begun.status, begun.response
        outcome = work(session)
        finish(session, begun, *outcome)
        return outcome

    status, body = await pool.run(apply)
    return JSONResponse(body, status)
