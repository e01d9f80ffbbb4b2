"""Grading tokens: lent to a browser for one answer and a few grades, and taken back.

Leaves out their form (`app.api.door.grading_tokens`) and what is graded with them (`app.api.grading.grades`).
"""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import Field
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse, Response

from app.api.door.answer_ids import UNFINISHED
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.door.grading_tokens import LONGEST_S, GradingToken, make_token
from app.api.grading import shapes
from app.api.grading.grades import reach
from app.api.http.fields import COUNTED, Strict, Text, example
from app.api.http.paths import Choice, known
from app.api.server import ServerDep
from app.identifiers import show
from app.store import lent
from app.store.tenants import LentToken

router = APIRouter(prefix="/v1/interactions/{interaction_id}/grading_tokens", tags=["grades"])

MayGrade = Annotated[Caller, Depends(require("grade"))]


class TokenBody(Strict):
    """What a grading token shall be."""

    model_config = example(expires_in=600, grades=2)

    expires_in: Annotated[int, Field(ge=1, le=LONGEST_S), COUNTED] = Field(3600, description="Seconds.")
    grades: Annotated[int, Field(ge=1, le=1000), COUNTED] | None = Field(
        None, description="Entries it may write, retractions too; left out: LEPO_TOKEN_GRADES."
    )
    choice: Annotated[int, Field(ge=0), COUNTED] | None = None


@router.post("", response_model=shapes.GradingToken, status_code=201, responses={409: UNFINISHED})
async def post_grading_token(interaction_id: Text, body: TokenBody, server: ServerDep, caller: MayGrade) -> Response:
    """Make a short-lived token with which a browser can grade this one answer a few times."""
    secret = await server.grading_secret()
    grades = body.grades or server.settings.token_grades

    def make(session: Session) -> LentToken:
        target = reach(session, server, interaction_id, body.choice, caller)
        return lent.lend(session, target.id, caller.key_id, grades, timedelta(seconds=body.expires_in))

    row = await server.traffic.run(make)
    token = GradingToken(row.id, row.interaction_id, row.api_key_id, int(row.expires_at.timestamp()))
    shown = {
        "id": show("token", row.id),
        "token": make_token(token, secret),
        "interaction_id": show("int", row.interaction_id),
        "grades": row.grades,
        "expires_at": token.expires,
    }
    return JSONResponse(shown, 201)


@router.delete("", response_model=shapes.TokensClosed, responses={409: UNFINISHED})
async def revoke_grading_tokens(
    interaction_id: Text,
    server: ServerDep,
    caller: MayGrade,
    choice: Choice = None,
    id: Text | None = None,  # noqa: A002  the query's name
) -> Response:
    """Close the open tokens of this answer that this key made (an admin key: all), or the one with this `id`."""
    one = None if id is None else known("token", id)
    mine = None if caller.may("admin") else caller.key_id

    def close(session: Session) -> int:
        target = reach(session, server, interaction_id, choice, caller)
        return lent.take_back(session, target.id, key_id=mine, token_id=one)

    closed = await server.traffic.run(close)
    server.believed.forget()
    return JSONResponse({"object": "grading_tokens", "revoked": closed})
