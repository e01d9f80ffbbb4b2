"""Grades of an answer: given, read, taken back; appended always, edited never.

A grader's identity is kept under the key it came with (`<key id>/<grader id>`), so that no caller can supersede
another's grade, and kinds of this server's own graders cannot be claimed. Leaves out what a grade is worth
(`app.store.grades`).
"""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse, Response

from app.api.door.answer_ids import find, gradable
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.door.grading_tokens import LONGEST_S, GradingToken, make_token
from app.api.http.fields import Strict, Text
from app.api.http.once import Outcome, once
from app.api.server import Server, ServerDep
from app.errors import BadRequest, TooLarge
from app.identifiers import read, show
from app.store import clock
from app.store.episodes import KIND as EPISODE
from app.store.grades import Entry, add_grade, ledger, retract, rewards
from app.store.tables import Grade, Interaction
from training.graders.parse import TYPES

router = APIRouter(tags=["grades"])

OF_THE_SERVER: Final = frozenset({*TYPES, "score_model", EPISODE})
NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.:@/-]*$"

Kind = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
GraderId = Annotated[str, Field(pattern=NAME, max_length=128)]

MayGrade = Annotated[Caller, Depends(require("grade"))]
MayGradeThis = Annotated[Caller, Depends(require("grade", tokens=True))]


class GraderName(Strict):
    """Who grades."""

    kind: Kind = "client"
    id: GraderId | None = None
    version: str | None = Field(None, pattern=NAME, max_length=64)


class GradeBody(Strict):
    """One grade."""

    value: Annotated[float, Field(ge=0, le=1)] | bool | None = Field(
        None, description="0 is wrong, 1 is right; true is 1, false 0. May be left out where there is a correction."
    )
    grader: GraderName = GraderName()
    comment: Text | None = Field(None, description="At most LEPO_MAX_GRADE_TEXT characters, as the correction.")
    correction: Text | None = Field(None, description="What the answer should have been.")
    choice: int | None = Field(None, ge=0, description="Which choice, when the path names a response of several.")


class TokenBody(Strict):
    """What a grading token shall be."""

    expires_in: int = Field(3600, ge=1, le=LONGEST_S, description="Seconds.")
    choice: int | None = Field(None, ge=0)


@router.post("/v1/interactions/{interaction_id}/grades", response_model=None, status_code=201)
async def post_grade(
    interaction_id: str, body: GradeBody, request: Request, server: ServerDep, caller: MayGradeThis
) -> Response:
    """Grade an answer, however late; a later grade by the same grader supersedes the earlier one."""
    if body.value is None and not body.correction:
        raise BadRequest("Give a value, or a correction, or both.", param="value")
    state, value = ("corrected", None) if body.value is None else ("graded", float(body.value))
    require_short(server.settings.max_grade_text, comment=body.comment, correction=body.correction)
    redactor = server.redactor

    def work(session: Session) -> Outcome:
        texts = {"comment": redactor.optional(body.comment), "correction": redactor.optional(body.correction)}
        entry = entry_of(body.grader, caller, state=state, value=value, **texts)
        target = reach(session, server, interaction_id, body.choice, caller)
        made = graded(session, add_grade(session, target.id, entry))
        server.metrics.graded(entry.grader_kind)
        return 201, made

    return await once(server.traffic, request, caller, work)


@router.delete("/v1/interactions/{interaction_id}/grades", response_model=None)
async def take_back(
    interaction_id: str,
    request: Request,
    server: ServerDep,
    caller: MayGradeThis,
    kind: Kind = "client",
    id: GraderId | None = None,  # noqa: A002  the query's name
    choice: int | None = None,
) -> Response:
    """Take a grade back: an entry is appended that says so."""
    entry = entry_of(GraderName(kind=kind, id=id), caller, state="retracted")

    def work(session: Session) -> Outcome:
        target = reach(session, server, interaction_id, choice, caller)
        return 200, graded(session, retract(session, target.id, entry))

    return await once(server.traffic, request, caller, work)


@router.get("/v1/interactions/{interaction_id}/grades", response_model=None)
async def list_grades(
    interaction_id: str,
    server: ServerDep,
    caller: MayGrade,
    choice: int | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: str | None = None,
) -> Response:
    """Read the entries on an answer in the order of writing, superseded ones too, and what they come to.

    Continue with `next_after` as `after`.
    """
    try:
        begin = None if after is None else read("grade", after)
    except ValueError as error:
        raise BadRequest(f"after: {error}.", param="after") from error

    def listing(session: Session) -> dict[str, Any]:
        target = reach(session, server, interaction_id, choice, caller)
        found = ledger(session, target.id, limit=limit + 1, after=begin)
        more = len(found) > limit
        return {
            "object": "list",
            "data": [grade_json(grade) for grade in found[:limit]],
            "has_more": more,
            "next_after": show("grade", found[limit - 1].id) if more else None,
            "reward": reward_json(session, target),
        }

    return JSONResponse(await server.traffic.run(listing))


@router.post("/v1/interactions/{interaction_id}/grading_tokens", response_model=None, status_code=201)
async def post_grading_token(interaction_id: str, body: TokenBody, server: ServerDep, caller: MayGrade) -> Response:
    """Make a short-lived token with which a browser can grade this one answer."""
    secret = await server.grading_secret()

    def make(session: Session) -> GradingToken:
        target = reach(session, server, interaction_id, body.choice, caller)
        return GradingToken(target.id, caller.key_id, int(clock.now(session).timestamp()) + body.expires_in)

    token = await server.traffic.run(make)
    shown = {
        "token": make_token(token, secret),
        "interaction_id": show("int", token.interaction_id),
        "expires_at": token.expires,
    }
    return JSONResponse(shown, 201)


def require_short(most: int, **texts: str | None) -> None:
    """Refuse texts beyond a bound.

    Raises:
        TooLarge: one is; `param` names it.

    """
    for name, given in texts.items():
        if given is not None and len(given) > most:
            words = f"{name} has {len(given)} characters; {most} may be stored (LEPO_MAX_GRADE_TEXT)."
            raise TooLarge(words, param=name, code="text_too_large")


def reach(session: Session, server: Server, text: str, choice: int | None, caller: Caller) -> Interaction:
    """Find the answer a caller means, if it may grade it."""
    found = find(session, text, choice, server.underway)
    return gradable(found, caller, others=server.settings.grade_others)


def entry_of(grader: GraderName, caller: Caller, **facts: Any) -> Entry:
    """Write an entry under the caller's own name.

    Raises:
        BadRequest: the kind belongs to graders that this server runs.

    """
    if grader.kind in OF_THE_SERVER:
        raise BadRequest(f"grader.kind {grader.kind!r} is this server's own; choose another.", param="grader.kind")
    kind, name = (grader.kind, grader.id) if caller.only is None else ("user", "token")
    identity = caller.key_id if name is None else f"{caller.key_id}/{name}"
    return Entry(kind, identity, grader_version=grader.version, api_key_id=caller.key_id, **facts)


def graded(session: Session, grade: Grade) -> dict[str, Any]:
    """Write an entry just made, with what the answer's grades come to now."""
    session.refresh(grade)
    found = rewards(session, [grade.interaction_id]).get(grade.interaction_id)
    return {**grade_json(grade), "reward": None if found is None else {"value": found.value, "graders": found.graders}}


def reward_json(session: Session, interaction: Interaction) -> dict[str, Any] | None:
    """Write what an answer's grades come to; null while there is none."""
    found = rewards(session, [interaction.id]).get(interaction.id)
    return None if found is None else {"value": found.value, "graders": found.graders}


def grade_json(grade: Grade) -> dict[str, Any]:
    """Write one entry of the ledger."""
    return {
        "id": show("grade", grade.id),
        "object": "grade",
        "interaction_id": show("int", grade.interaction_id),
        "state": grade.state,
        "value": grade.value,
        "grader": {"kind": grade.grader_kind, "id": grade.grader_id, "version": grade.grader_version},
        "source": grade.source,
        "counts": grade.counts,
        "session_grade": None if grade.session_grade_id is None else show("grade", grade.session_grade_id),
        "credit": grade.credit,
        "comment": grade.comment,
        "correction": grade.correction,
        "supersedes": None if grade.supersedes_id is None else show("grade", grade.supersedes_id),
        "created_at": grade.created_at.isoformat(),
    }
