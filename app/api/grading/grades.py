"""Grades of an answer: given, read, taken back; appended always, edited never.

A grader's identity is kept under the key it came with (`<key id>/<grader id>`), so that no caller can supersede
another's grade, and kinds of this server's own graders cannot be claimed. Leaves out what a grade is worth
(`app.store.grades`).
"""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse, Response

from app.api.door.answer_ids import UNFINISHED, find
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.grading import shapes
from app.api.http.fields import COUNTED, Strict, Text, example
from app.api.http.once import REPEATABLE, Outcome, once
from app.api.http.pages import Limit, after_id, cursor, page
from app.api.http.paths import Choice
from app.api.http.shapes import links
from app.api.server import Server, ServerDep
from app.errors import BadRequest, TooLarge
from app.identifiers import show
from app.settings import Settings
from app.store import lent
from app.store.episodes import KIND as EPISODE
from app.store.grades import Entry, add_grade, ledger, retract, rewards
from app.store.tables import Grade, Interaction
from app.telemetry.log import note
from app.telemetry.told import GradeTold
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

    model_config = example(value=1, comment="right")

    value: Annotated[float, Field(ge=0, le=1)] | bool | None = Field(
        None, description="0 is wrong, 1 is right; true is 1, false 0. May be left out where there is a correction."
    )
    grader: GraderName = GraderName()
    comment: Text | None = Field(None, description="At most LEPO_MAX_GRADE_TEXT characters, as the correction.")
    correction: Text | None = Field(None, description="What the answer should have been.")
    choice: Annotated[int, Field(ge=0), COUNTED] | None = Field(
        None, description="Which choice, when the path names a response of several."
    )


@router.post(
    "/v1/interactions/{interaction_id}/grades",
    response_model=shapes.GradeMade,
    status_code=201,
    dependencies=[REPEATABLE],
    responses={201: links("list_grades", "retract_grade", interaction_id="/interaction_id")},
)
async def post_grade(
    interaction_id: Text, body: GradeBody, request: Request, server: ServerDep, caller: MayGradeThis
) -> Response:
    """Grade an answer, however late; a later grade by the same grader supersedes the earlier one."""
    if body.value is None and not body.correction:
        raise BadRequest("Give a value, or a correction, or both.", param="value")
    state, value = ("corrected", None) if body.value is None else ("graded", float(body.value))
    require_short(server.settings, caller, comment=body.comment, correction=body.correction)
    caller.require_room()
    redactor = server.redactor
    told: list[GradeTold] = []

    def work(session: Session) -> Outcome:
        texts = {"comment": redactor.optional(body.comment), "correction": redactor.optional(body.correction)}
        entry = entry_of(body.grader, caller, state=state, value=value, **texts)
        target = reach(session, server, interaction_id, body.choice, caller)
        use_token(session, caller)
        made = graded(session, add_grade(session, target.id, entry))
        server.metrics.graded(entry.grader_kind)
        told.append(grade_told(target, entry))
        return 201, made

    response = await once(server.traffic, request, caller, work)
    tell(server, told)
    return response


@router.delete("/v1/interactions/{interaction_id}/grades", response_model=shapes.GradeMade, dependencies=[REPEATABLE])
async def retract_grade(
    interaction_id: Text,
    request: Request,
    server: ServerDep,
    caller: MayGradeThis,
    kind: Kind = "client",
    id: GraderId | None = None,  # noqa: A002  the query's name
    choice: Choice = None,
) -> Response:
    """Take a grade back: an entry is appended that says so."""
    entry = entry_of(GraderName(kind=kind, id=id), caller, state="retracted")
    told: list[GradeTold] = []

    def work(session: Session) -> Outcome:
        target = reach(session, server, interaction_id, choice, caller)
        use_token(session, caller)
        told.append(grade_told(target, entry))
        return 200, graded(session, retract(session, target.id, entry))

    response = await once(server.traffic, request, caller, work)
    tell(server, told)
    return response


@router.get("/v1/interactions/{interaction_id}/grades", response_model=shapes.Grades, responses={409: UNFINISHED})
async def list_grades(
    interaction_id: Text,
    server: ServerDep,
    caller: MayGrade,
    choice: Choice = None,
    limit: Limit = 100,
    after: Annotated[str | None, after_id("grade")] = None,
) -> Response:
    """Read the entries on an answer in the order of writing, superseded ones too, and what they come to."""
    begin = cursor("grade", after)

    def listing(session: Session) -> dict[str, Any]:
        target = reach(session, server, interaction_id, choice, caller)
        found = ledger(session, target.id, limit=limit + 1, after=begin)
        shown = page(found, limit, grade_json, lambda grade: show("grade", grade.id))
        return {**shown, "reward": reward_json(session, target)}

    return JSONResponse(await server.traffic.run(listing))


def use_token(session: Session, caller: Caller) -> None:
    """Take one entry off the token an entry comes with, if it is one.

    Raises:
        Forbidden: none is left.

    """
    if caller.token is not None:
        lent.use(session, caller.token)


def require_short(settings: Settings, caller: Caller, **texts: str | None) -> None:
    """Refuse texts beyond a bound; that of a token, which anybody may have read, is smaller.

    Raises:
        TooLarge: one is; `param` names it.

    """
    most, setting = settings.max_grade_text, "LEPO_MAX_GRADE_TEXT"
    if caller.only is not None and settings.token_grade_text < most:
        most, setting = settings.token_grade_text, "LEPO_TOKEN_GRADE_TEXT"
    for name, given in texts.items():
        if given is not None and len(given) > most:
            words = f"{name} has {len(given)} characters; {most} may be stored ({setting})."
            raise TooLarge(words, param=name, code="text_too_large")


def reach(session: Session, server: Server, text: str, choice: int | None, caller: Caller) -> Interaction:
    """Find the answer a caller means, if it may grade it."""
    return find(session, text, choice, server.underway, caller, others=server.settings.grade_others)


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


def grade_told(interaction: Interaction, entry: Entry) -> GradeTold:
    """Write down what a collector may hear of an entry: a person's words are not among it."""
    completion_id = interaction.completion_id.partition(".")[0]  # a response of several prompts has a group for each
    shown = show("int", interaction.id)
    return GradeTold(entry.grader_kind, entry.value, entry.state, None, completion_id, shown)


def tell(server: Server, told: list[GradeTold]) -> None:
    """Tell of an entry that is committed; of one that a repeated key stood for there is nothing new to tell."""
    for one in told[-1:]:
        note(interaction_ids=[one.interaction_id])
        server.telemetry.graded(one)


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
