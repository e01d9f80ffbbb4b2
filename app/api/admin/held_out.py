"""Held-out sets, for operators of the service: upload one, read them, choose which one the gate asks.

An upload is JSONL, a prompt with a grader a line. Each line is read as the gate will read it, with this model's chat
template and room, so that what is taken can be asked; else nothing is kept, and the refusal names the lines. Leaves out
what a line is (`app.held_out_lines`) and which prompts are sealed, which the settings say when the gate asks.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Request
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse, Response

from app.api.admin import shapes
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.http.once import REPEATABLE, Outcome, once
from app.api.http.pages import NO_PLACE, After, Limit, behind, page
from app.api.http.shapes import links
from app.api.server import Server, ServerDep
from app.errors import BadRequest
from app.held_out_lines import Entry, ids_of, read_entries, read_entry, room_for, sealed_of
from app.settings import Settings
from app.store import held_out
from app.store.base import Json
from app.store.held_out_tables import HeldOutSet

router = APIRouter(prefix="/v1/admin/held-out", tags=["admin"])

MayRule = Annotated[Caller, Depends(require("admin"))]
Version = Annotated[int, Path(ge=1, lt=2**31)]
VersionOrNone = Annotated[int, Path(ge=0, lt=2**31, description="0: none, so that the gate asks LEPO_HELDOUT's.")]

MOST: Final = 10_000  # prompts of a set
TOLD: Final = 5  # wrong lines that a refusal names
LINE: Final[Json] = {
    "type": "object",
    "required": ["grader"],
    "properties": {
        "prompt": {"type": "string"},
        "messages": {"type": "array", "items": {"type": "object"}},
        "grader": {"type": "object"},
    },
}
LINES: Final[Json] = {
    "requestBody": {
        "required": True,
        "description": "A prompt (or messages) with a grader a line, as UTF-8.",
        "content": {"application/x-ndjson": {"itemSchema": LINE}, "text/plain": {"schema": {"type": "string"}}},
    }
}


@dataclass(frozen=True, slots=True)
class Upload:
    """Lines that can be asked."""

    lines: str
    prompts: int  # of them, > 0


@router.post(
    "",
    response_model=shapes.HeldOutSet,
    status_code=201,
    dependencies=[REPEATABLE],
    openapi_extra=LINES,
    responses={201: links("get_held_out", "activate_held_out", version="/version")},
)
async def post_held_out(request: Request, server: ServerDep, caller: MayRule, activate: bool = True) -> Response:
    """Keep a set under the next version; the gate asks it from the next update on, unless `activate` is false."""
    body = await request.body()
    upload = await server.prompts.apart(lambda: read_upload(body, server))

    def keep(session: Session) -> Outcome:
        row = held_out.add(session, upload.lines, upload.prompts, caller.key_id)
        if activate:
            held_out.activate(session, row.version, caller.key_id)
        session.refresh(row)
        request.state.audit_target = f"version {row.version}"
        return 201, set_json(row)

    return await once(server.control, request, caller, keep)


@router.get("", response_model=shapes.HeldOutSets, responses={404: NO_PLACE})
async def list_held_out(server: ServerDep, _caller: MayRule, limit: Limit = 100, after: After = None) -> Response:
    """List sets without their lines, the newest first."""
    found = behind(await server.control.run(held_out.list_sets), after, lambda row: str(row.version))
    return JSONResponse(page(found, limit, set_json, lambda row: str(row.version)))


@router.get("/{version}", response_model=shapes.HeldOutSetWhole)
async def get_held_out(version: Version, server: ServerDep, _caller: MayRule) -> Response:
    """Read one with its lines, and how many of them the gate asks."""
    row = await server.control.run(lambda session: held_out.get(session, version, lines=True))
    asked, sealed = await server.render(lambda: divided(row.lines, server.settings))
    return JSONResponse({**set_json(row), "asked": asked, "sealed": sealed, "lines": row.lines})


@router.post("/{version}/activate", response_model=shapes.HeldOutActive, dependencies=[REPEATABLE])
async def activate_held_out(version: VersionOrNone, request: Request, server: ServerDep, caller: MayRule) -> Response:
    """Have the gate ask this version from the next update on; 0 goes back to what LEPO_HELDOUT names."""

    def choose(session: Session) -> Outcome:
        changed = held_out.activate(session, version, caller.key_id)
        return 200, {"object": "held_out.active", "version": version, "changed": changed}

    return await once(server.control, request, caller, choose)


def read_upload(body: bytes, server: Server) -> Upload:
    """Read what was uploaded, as the gate will.

    Raises:
        BadRequest: a line cannot be asked, there is none, or there are too many; the message names the lines.

    """
    try:
        lines = body.decode()
    except UnicodeDecodeError as error:
        place = body.count(b"\n", 0, error.start) + 1
        raise BadRequest(f"Line {place} is not UTF-8; nothing was kept.", code="invalid_held_out") from error
    prompts, wrong = 0, []
    for number, line in enumerate(lines.split("\n"), start=1):
        if not line.strip():
            continue
        prompts += 1
        where = f"line {number}"
        try:
            require_askable(read_entry(line, where), where, server)
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise BadRequest(f"Nothing was kept: {listed(wrong)}.", code="invalid_held_out")
    if not 0 < prompts <= MOST:
        raise BadRequest(
            f"A held-out set has 1 to {MOST} prompts, one a line, and this has {prompts}; a line reads "
            '{"prompt": "What is 2 + 3?", "grader": {"type": "math", "reference": "5"}}.',
            code="invalid_held_out",
        )
    return Upload(lines, prompts)


def require_askable(entry: Entry, where: str, server: Server) -> None:
    """Refuse what the gate could not ask of this model.

    Raises:
        ValueError: it is such a line.

    """
    ids = ids_of(entry, where, server.prompts.tokenizer)
    try:
        room_for(entry.said, len(ids), server.settings, server.placements.of_chat)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def listed(wrong: Sequence[str]) -> str:
    """Write what is wrong with the first lines, and how many more are wrong."""
    more = len(wrong) - TOLD
    return "; ".join(wrong[:TOLD]) + (f"; and {more} more" if more > 0 else "")


def divided(lines: str, settings: Settings) -> tuple[int, int]:
    """Count what the gate asks of a set, and what is sealed: of as many prompts as are read, each once."""
    entries = [entry for _, entry in read_entries(lines.split("\n"), "line ", settings.heldout_size)]
    said = {json.dumps([one.messages, one.grader], sort_keys=True): one.said for one in entries}
    sealed = sum(sealed_of(list(said.values()), settings.heldout_sealed))
    return len(said) - sealed, sealed


def set_json(row: HeldOutSet) -> dict[str, Any]:
    """Write a set without its lines."""
    return {
        "object": "held_out",
        "version": row.version,
        "digest": row.digest,
        "prompts": row.prompts,
        "bytes": row.size,
        "active": row.active,
        "created_by": row.created_by,
        "created_at": row.created_at.isoformat(),
        "activated_by": row.activated_by,
        "activated_at": None if row.activated_at is None else row.activated_at.isoformat(),
    }
