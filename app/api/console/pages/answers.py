"""Answers: looked for, read as conversations, and one of them with all that is known of it.

A key sees what `GET /v1/interactions` would show it; the trace, as there, only an admin key. Leaves out the search
(`app.store.console_search`) and grading (`app.api.console.pages.review`).
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Depends, Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from app.api.answering.token_names import TokenNames
from app.api.console.pages.acting import act, back
from app.api.console.pages.forms import ProvenForm
from app.api.console.pages.rendering import page
from app.api.console.pages.routes import pages
from app.api.console.pages.trace import TraceShown, show_trace
from app.api.door.answer_ids import find
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.server import Server, ServerDep
from app.errors import BadRequest, Forbidden, NotFound
from app.identifiers import read, show
from app.store import grades
from app.store.checkpoints import get_checkpoint
from app.store.console_search import Found, Search, search
from app.store.grades import Reward
from app.store.interactions import Filters, bytes_of, choices, fate, rollout
from app.store.session_tables import ClientSession
from app.store.tables import Checkpoint, Claim, Grade, Interaction
from training.codec import decode

router = pages()

MayInfer = Annotated[Caller, Depends(require("infer"))]

FIELDS: Final = ("q", "version", "user", "key", "session", "grade", "grader", "since", "until")
MOST_TURNS: Final = 200


@dataclass(frozen=True, slots=True)
class One:
    """An answer and all that is known of it."""

    row: Interaction
    messages: list[dict[str, str]]  # the conversation that was asked; role and text
    reward: Reward | None
    ledger: list[Grade]  # in the order of writing
    standing: frozenset[UUID]  # entries that nothing supersedes
    siblings: list[Interaction]  # choices of the same response
    policy: Checkpoint
    fate: tuple[Claim, Checkpoint | None] | None  # what was learned from it
    session: ClientSession | None
    trace: TraceShown | None  # None: none is kept, or it is not for this key


@router.get("/console/answers")
async def listing(request: Request, server: ServerDep, caller: MayInfer, after: str | None = None) -> Response:
    """Show a page of answers."""
    asked = {name: request.query_params.get(name, "").strip() for name in FIELDS}
    filters, more = read_search(asked, caller)
    begin = None if after is None else known(after)
    found = await server.control.run(lambda session: search(session, filters, more, after=begin))
    onward = None
    if found.next_after is not None:
        onward = "?" + urlencode({**{k: v for k, v in asked.items() if v}, "after": show("int", found.next_after)})
    items = [(row, reward, last_said(row)) for row, reward in found.items]
    return page(
        request, "answers.html", asked=asked, found=found, items=items, onward=onward, filtered=any(asked.values())
    )


@router.get("/console/answers/{answer_id}")
async def one(request: Request, answer_id: str, server: ServerDep, caller: MayInfer) -> Response:
    """Show one answer."""
    found = await server.control.run(lambda session: read_one(session, server, answer_id, caller))
    return page(request, "answer.html", one=found)


@router.get("/console/answers/{answer_id}/trace")
async def trace(request: Request, answer_id: str, server: ServerDep, caller: MayInfer) -> Response:
    """Show how an answer was thought, as a part of a page; for admin keys, as in the API."""
    if not caller.may("admin"):
        raise Forbidden("The trace of an answer needs an admin key.")
    found = await server.control.run(lambda session: read_one(session, server, answer_id, caller).trace)
    if found is None:
        raise NotFound("No trace of this answer is kept.")
    return page(request, "_trace.html", trace=found)


@router.get("/console/sessions/{session_id}")
async def conversation(request: Request, session_id: str, server: ServerDep, caller: MayInfer) -> Response:
    """Show a session as a conversation."""

    def turns(session: Session) -> tuple[ClientSession, Found]:
        try:
            key = read("sess", session_id)
        except ValueError as error:
            raise NotFound(f"There is no session {session_id[:80]}.") from error
        found = search(session, seen_by(caller, Filters()), Search(session_id=key), limit=MOST_TURNS)
        row = session.get(ClientSession, key)
        if row is None or not found.items:
            raise NotFound(f"There is no session {session_id[:80]}.")
        return row, found

    row, found = await server.control.run(turns)
    spoken = [(answer, reward, last_said(answer)) for answer, reward in reversed(found.items)]
    return page(request, "session.html", session=row, turns=spoken)


@router.post("/console/answers/{answer_id}/grade")
async def grade(request: Request, answer_id: str, form: ProvenForm, _caller: MayInfer) -> Response:
    """Grade or correct an answer, or take the grade back."""
    done = await graded(request, answer_id, form)
    return back(f"/console/answers/{answer_id}", done)


async def graded(request: Request, answer_id: str, form: dict[str, str]) -> str:
    """Ask the API to grade as the form says; returns what came of it.

    Raises:
        BadRequest: the form says nothing.

    """
    path = f"/v1/interactions/{answer_id}/grades"
    if form.get("value") == "retract":
        done = await act(request, "DELETE", f"{path}?kind=person&id=console")
        return done.refused or "Your grade is taken back."
    body: dict[str, Any] = {"grader": {"kind": "person", "id": "console"}}
    try:
        if form.get("value"):
            body["value"] = float(form["value"])
    except ValueError as error:
        raise BadRequest("A grade is a number from 0 to 1.", param="value") from error
    body |= {name: text for name in ("comment", "correction") if (text := form.get(name, "").strip())}
    done = await act(request, "POST", path, body)
    if done.refused is not None:
        return f"Not graded: {done.refused}"
    value = done.body.get("value")
    return "Corrected." if value is None else f"Graded {value:g}."


def seen_by(caller: Caller, wanted: Filters) -> Filters:
    """Say whose answers somebody may see: an admin those of its project, others what they asked themselves."""
    whose = wanted.api_key_id if caller.may("admin") else caller.key_id
    return Filters(
        since=wanted.since,
        until=wanted.until,
        graded=wanted.graded,
        api_key_id=whose,
        policy_version=wanted.policy_version,
        user_tag=wanted.user_tag,
        project_id=caller.project,
    )


def read_search(asked: dict[str, str], caller: Caller) -> tuple[Filters, Search]:
    """Read the form of a search.

    Raises:
        BadRequest: a field cannot be read; `param` names it.

    """
    grade = asked["grade"]
    low = {"good": 0.5, "bad": None}.get(grade)
    session = asked["session"]
    named = session if not session.startswith("sess_") else ""
    more = Search(
        words=asked["q"],
        session_id=None if named or not session else session_uuid(session),
        session_name=named,
        grader=asked["grader"],
        least=low,
        most=0.499999 if grade == "bad" else None,
        corrected=grade == "corrected",
    )
    version = asked["version"].lower().removeprefix("v")
    if version and not (version.isdecimal() and len(version) < 19):
        raise BadRequest("A version is a whole number, such as 7.", param="version")
    filters = Filters(
        since=moment("since", asked["since"]),
        until=moment("until", asked["until"]),
        graded={"none": False, "any": True}.get(grade),
        api_key_id=asked["key"] or None,
        policy_version=int(version) if version else None,
        user_tag=asked["user"] or None,
    )
    return seen_by(caller, filters), more


def session_uuid(text: str) -> UUID:
    """Read a session's id.

    Raises:
        BadRequest: it is none.

    """
    try:
        return read("sess", text)
    except ValueError as error:
        raise BadRequest(f"session: {error}.", param="session") from error


def moment(name: str, text: str) -> datetime | None:
    """Read a time as a browser's field writes it; one without a zone is UTC.

    Raises:
        BadRequest: it is none.

    """
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadRequest(f"{name}: write a time as 2026-11-28T10:00.", param=name) from error
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def known(text: str) -> UUID:
    """Read an answer's id.

    Raises:
        NotFound: it is none.

    """
    try:
        return read("int", text)
    except ValueError as error:
        raise NotFound(f"There is no interaction {text[:80]}.") from error


def read_one(session: Session, server: Server, answer_id: str, caller: Caller) -> One:
    """Read an answer with all that is known of it.

    Raises:
        NotFound: there is none within the caller's reach.

    """
    row = find(session, answer_id, None, server.underway, caller)
    entries = grades.ledger(session, row.id, limit=200)
    last = {(entry.grader_kind, entry.grader_id): entry.id for entry in entries}
    stored = rollout(session, row.id) if caller.may("admin") else None
    payload = None if stored is None else bytes_of(stored)
    return One(
        row=row,
        messages=messages_of(row),
        reward=grades.rewards(session, [row.id]).get(row.id),
        ledger=entries,
        standing=frozenset(last.values()),
        siblings=choices(session, row.completion_id) if row.group_size > 1 else [],
        policy=get_checkpoint(session, row.checkpoint_id),
        fate=fate(session, row.id),
        session=None if row.session_id is None else session.get(ClientSession, row.session_id),
        trace=None if payload is None else traced(payload, server.names),
    )


def traced(payload: bytes, names: TokenNames) -> TraceShown:
    """Describe a stored trace."""
    return show_trace(decode(payload), names)


def messages_of(row: Interaction) -> list[dict[str, str]]:
    """Write the conversation that was asked; of a plain completion its prompt."""
    given = row.request.get("messages") or row.request.get("input")
    if not isinstance(given, list):
        return [{"role": "prompt", "text": given if isinstance(given, str) else row.prompt_text}]
    return [
        {"role": str(one.get("role", one.get("type", ""))), "text": said(one)} for one in given if isinstance(one, dict)
    ]


def said(message: dict[str, Any]) -> str:
    """Write what a message says, whichever form its content has."""
    content = message.get("content", message.get("output", message.get("arguments")))
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) if isinstance(part, dict) else str(part) for part in content)
    if content is None and message.get("tool_calls"):
        return "\n".join(str(call.get("function", call)) for call in message["tool_calls"])
    return "" if content is None else str(content)


def last_said(row: Interaction) -> str:
    """Write what a turn answered: the last message of its conversation."""
    messages = messages_of(row)
    return messages[-1]["text"] if messages else row.prompt_text
