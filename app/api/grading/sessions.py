"""Sessions read back, and episodes graded as a whole: appended always, edited never.

A grade of a session says what all its turns came to, and by which rule they share it. It is kept with the session, and
what follows from it stands in the ledger of each turn it credits, as an entry of the kind `episode`. A session of
another key is not there. Leaves out what a turn gets (`app.store.episodes`), grades of one answer
(`app.api.grading.grades`), and removal (`app.api.admin.erasure`).
"""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse, Response

from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.door.session_ids import gradable_session, known_as, own_session
from app.api.grading import shapes
from app.api.grading.grades import GraderId, GraderName, Kind, entry_of, grade_json, require_short
from app.api.http.fields import COUNTED, Strict, Text, example
from app.api.http.once import REPEATABLE, Outcome, once
from app.api.http.pages import AFTER, Limit, after_id, cursor, page
from app.api.http.shapes import links
from app.api.server import ServerDep
from app.errors import BadRequest
from app.identifiers import show
from app.store import episodes, sessions
from app.store.episodes import Credit, Rule
from app.store.grades import Reward, rewards
from app.store.session_tables import ClientSession, SessionGrade
from app.store.tables import Grade, Interaction

router = APIRouter(tags=["sessions"])

OF_SESSION = ("get_session", "post_session_grade", "retract_session_grade", "delete_session")
MayInfer = Annotated[Caller, Depends(require("infer"))]
MayGrade = Annotated[Caller, Depends(require("grade"))]


class SessionGradeBody(Strict):
    """One grade of a whole session."""

    model_config = example(value=0.5, credit="all_turns")

    value: Annotated[float, Field(ge=0, le=1)] | bool = Field(description="0 is wrong, 1 is right; true is 1, false 0.")
    credit: Rule | None = Field(None, description="Which turns share it; left out: as this session's last grade.")
    discount: float | None = Field(
        None, gt=0, lt=1, description="With `discounted`: the credit that is left one turn earlier."
    )
    choice: Annotated[int, Field(ge=0), COUNTED] | None = Field(
        None, description="Which answer of the last turn, where that has several."
    )
    grader: GraderName = GraderName()
    comment: Text | None = Field(None, description="At most LEPO_MAX_GRADE_TEXT characters.")


@router.get(
    "/v1/sessions", response_model=shapes.Sessions, responses={200: links(*OF_SESSION, session_id="/data/0/id")}
)
async def list_sessions(
    server: ServerDep,
    caller: MayInfer,
    name: Text | None = None,
    key: Text | None = None,
    limit: Limit = 50,
    after: Annotated[str | None, after_id("sess")] = None,
) -> Response:
    """List sessions, the newest first. `key` is for admin keys."""
    begin = cursor("sess", after)
    whose = key if caller.may("admin") else caller.key_id
    called = None if name is None else known_as(server.redactor, caller, name)

    def listing(session: Session) -> dict[str, Any]:
        found = sessions.page(
            session, key_id=whose, project_id=caller.project, name=called, limit=limit + 1, after=begin
        )
        return page(found, limit, session_json, lambda row: show("sess", row.id))

    return JSONResponse(await server.traffic.run(listing))


@router.get("/v1/sessions/{session_id}", response_model=shapes.SessionRead)
async def get_session(
    session_id: Text,
    server: ServerDep,
    caller: MayInfer,
    limit: Limit = 100,
    after: Annotated[int, Query(ge=0, lt=2**31, description=AFTER)] = 0,
) -> Response:
    """Read a session: its turns with their answers and grades, and the grades of the whole.

    The path takes its id, or your name for it. A page holds turns; `after` is the last one's number.
    """

    def one(session: Session) -> dict[str, Any]:
        row = own_session(session, known_as(server.redactor, caller, session_id), caller)
        found = sessions.answers(session, row.id, turns=limit, after=after)
        ids = [answer.id for answer in found]
        ledgers, worth = sessions.ledgers(session, ids), rewards(session, ids)
        more = row.turns > after + limit
        return {
            **session_json(row),
            "data": turns_json(found, ledgers, worth),
            "has_more": more,
            "next_after": str(after + limit) if more else None,
            "grades": [session_grade_json(session, grade) for grade in episodes.ledger(session, row.id)],
        }

    return JSONResponse(await server.traffic.run(one))


@router.post(
    "/v1/sessions/{session_id}/grades",
    response_model=shapes.SessionGrade,
    status_code=201,
    dependencies=[REPEATABLE],
)
async def post_session_grade(
    session_id: Text, body: SessionGradeBody, request: Request, server: ServerDep, caller: MayGrade
) -> Response:
    """Grade a whole session; a later grade by the same grader supersedes the earlier one, turn by turn."""
    credit = credit_of(body)
    require_short(server.settings, caller, comment=body.comment)
    caller.require_room()

    def work(session: Session) -> Outcome:
        comment = server.redactor.optional(body.comment)
        entry = entry_of(body.grader, caller, state="graded", value=float(body.value), comment=comment)
        known = known_as(server.redactor, caller, session_id)
        row = gradable_session(session, known, caller, others=server.settings.grade_others)
        grade = episodes.grade_session(session, row, entry, credit, body.choice)
        server.metrics.graded(entry.grader_kind)
        return 201, session_grade_json(session, grade)

    return await once(server.traffic, request, caller, work)


@router.delete("/v1/sessions/{session_id}/grades", response_model=shapes.SessionGrade, dependencies=[REPEATABLE])
async def retract_session_grade(
    session_id: Text,
    request: Request,
    server: ServerDep,
    caller: MayGrade,
    kind: Kind = "client",
    id: GraderId | None = None,  # noqa: A002  the query's name
) -> Response:
    """Take a grade of a session back, and what followed from it for its turns."""
    entry = entry_of(GraderName(kind=kind, id=id), caller, state="retracted")

    def work(session: Session) -> Outcome:
        known = known_as(server.redactor, caller, session_id)
        row = gradable_session(session, known, caller, others=server.settings.grade_others)
        return 200, session_grade_json(session, episodes.grade_session(session, row, entry, None))

    return await once(server.traffic, request, caller, work)


def credit_of(body: SessionGradeBody) -> Credit | None:
    """Read the rule a grade names.

    Raises:
        BadRequest: a discount without the rule `discounted`, or that rule without a discount.

    """
    if (body.credit == "discounted") != (body.discount is not None):
        raise BadRequest("credit discounted and a discount belong together; send both or neither.", param="discount")
    return None if body.credit is None else Credit(body.credit, body.discount)


def session_json(row: ClientSession) -> dict[str, Any]:
    """Write a session without its turns."""
    return {
        "id": show("sess", row.id),
        "object": "session",
        "name": row.name,
        "key": row.api_key_id,
        "turns": row.turns,
        "credit": {"rule": row.credit, "discount": row.discount},
        "created_at": row.created_at.isoformat(),
        "last_turn_at": row.last_turn_at.isoformat(),
    }


def turns_json(
    found: list[Interaction], ledgers: dict[UUID, list[Grade]], worth: dict[UUID, Reward]
) -> list[dict[str, Any]]:
    """Write turns with their answers, of each its grades and what they come to."""
    turns: dict[int, list[dict[str, Any]]] = {}
    for row in found:
        assert row.turn is not None, "an answer of a session has a turn"
        reward = worth.get(row.id)
        turns.setdefault(row.turn, []).append(
            {
                "interaction_id": show("int", row.id),
                "completion_id": row.completion_id,
                "choice": row.choice,
                "policy_version": row.policy_version,
                "follows": None if row.follows_id is None else show("int", row.follows_id),
                "answer": row.answer,
                "finish_reason": row.finish_reason,
                "created_at": row.created_at.isoformat(),
                "reward": None if reward is None else {"value": reward.value, "graders": reward.graders},
                "grades": [grade_json(grade) for grade in ledgers[row.id]],
            }
        )
    return [{"turn": turn, "answers": answers} for turn, answers in turns.items()]


def session_grade_json(session: Session, grade: SessionGrade) -> dict[str, Any]:
    """Write one entry of a session's ledger, and the turns it credits."""
    return {
        "id": show("grade", grade.id),
        "object": "session.grade",
        "session_id": show("sess", grade.session_id),
        "state": grade.state,
        "value": grade.value,
        "credit": {"rule": grade.credit, "discount": grade.discount},
        "through_turn": grade.through_turn,
        "turns": episodes.shares_of(session, grade),
        "grader": {"kind": grade.grader_kind, "id": grade.grader_id, "version": grade.grader_version},
        "comment": grade.comment,
        "supersedes": None if grade.supersedes_id is None else show("grade", grade.supersedes_id),
        "created_at": grade.created_at.isoformat(),
    }
