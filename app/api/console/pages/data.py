"""Data and keys: graders tried on real answers, what the gate asks, keys, projects, exports, deletion.

An admin key of a project sees and changes that project's, as in the API, which does all of it; held-out questions are
the service's.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from app.api.console.pages.acting import act, back
from app.api.console.pages.answers import seen_by
from app.api.console.pages.forms import ProvenForm
from app.api.console.pages.rendering import page
from app.api.console.pages.routes import pages
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.server import ServerDep
from app.errors import BadRequest
from app.store import held_out, keys
from app.store.audit import list_audit
from app.store.held_out_tables import HeldOutSet
from app.store.interactions import Filters, list_interactions
from app.store.projects import Used, list_projects, used
from app.store.tables import ApiKey, Interaction
from app.store.tenants import AuditEntry, Project

router = pages()

MayAdmin = Annotated[Caller, Depends(require("admin", projects=True))]

HERE = "/console/data"
TRIED = 8  # newest answers that a grader is tried on
SPEC = '{"type": "math", "reference": "54"}'


@dataclass(frozen=True, slots=True)
class Kept:
    """What the page shows."""

    keys: list[tuple[ApiKey, str]]  # with the state each is in
    projects: list[tuple[Project, Used]]
    audit: list[AuditEntry]  # newest first
    held_out: list[HeldOutSet]  # uploaded, newest first; none for a key of a project


@dataclass(frozen=True, slots=True)
class Tried:
    """What a grader says of an answer."""

    row: Interaction
    says: str  # a value, or why there is none
    before: float | None  # what the answer is worth by now


@router.get(HERE)
async def everything(request: Request, server: ServerDep, caller: MayAdmin) -> Response:
    """Show the page."""
    return await shown(request, server, caller)


@router.post(f"{HERE}/grader")
async def grader(request: Request, server: ServerDep, caller: MayAdmin, form: ProvenForm) -> Response:
    """Try a grader on the newest answers; nothing is stored."""
    spec = form.get("spec", "")
    try:
        wanted = json.loads(spec)
    except ValueError as error:
        raise BadRequest(f"The grader must be JSON, such as {SPEC}.", param="spec") from error
    checked = await act(request, "POST", "/v1/graders/validate", {"grader": wanted})
    if checked.refused is not None:
        return await shown(request, server, caller, spec=spec, refused=checked.refused)
    newest = await server.control.run(
        lambda session: list_interactions(session, seen_by(caller, Filters()), limit=TRIED).items
    )
    tried = []
    for row, reward in newest:
        done = await act(request, "POST", "/v1/graders/run", {"grader": wanted, "answer": row.answer})
        says = done.refused or verdict_words(done.body)
        tried.append(Tried(row, says, None if reward is None else reward.value))
    return await shown(request, server, caller, spec=spec, tried=tried)


@router.post(f"{HERE}/keys")
async def make_key(request: Request, server: ServerDep, caller: MayAdmin, form: ProvenForm) -> Response:
    """Make a key, and show its text this once."""
    scopes = [one for one in ("infer", "grade", "admin") if form.get(one)]
    body: dict[str, Any] = {"name": form.get("name", "").strip(), "scopes": scopes}
    if form.get("project"):
        body["project"] = form["project"]
    done = await act(request, "POST", "/v1/admin/keys", body)
    return await shown(request, server, caller, refused=done.refused, made=done.body.get("key"))


@router.post(f"{HERE}/keys/{{key_id}}/revoke")
async def revoke(request: Request, key_id: str, _caller: MayAdmin, _form: ProvenForm) -> Response:
    """Close a key for good."""
    done = await act(request, "DELETE", f"/v1/admin/keys/{quote(key_id, safe='')}")
    return back(HERE, done.refused or f"Key {key_id} is closed.")


@router.post(f"{HERE}/keys/{{key_id}}/trust")
async def trust(request: Request, key_id: str, _caller: MayAdmin, form: ProvenForm) -> Response:
    """Trust a key, put it in quarantine, or make it ordinary again."""
    body = {"trust": form.get("trust", ""), "reason": "by hand, in the console"}
    done = await act(request, "POST", f"/v1/admin/keys/{quote(key_id, safe='')}/trust", body)
    return back(HERE, done.refused or f"Key {key_id} is {done.body['trust']} now.")


@router.post(f"{HERE}/projects")
async def make_project(request: Request, _caller: MayAdmin, form: ProvenForm) -> Response:
    """Make a project."""
    done = await act(request, "POST", "/v1/admin/projects", {"name": form.get("name", "").strip()})
    return back(HERE, done.refused or "The project is made; make a key for it next.")


@router.post(f"{HERE}/held-out")
async def upload_held_out(request: Request, server: ServerDep, caller: MayAdmin, form: ProvenForm) -> Response:
    """Keep held-out questions, and have the gate ask them."""
    lines = form.get("lines", "").replace("\r\n", "\n")  # browsers end lines so
    done = await act(request, "POST", "/v1/admin/held-out", text=lines)
    if done.refused is not None:
        return await shown(request, server, caller, refused=done.refused, lines=lines)
    return back(HERE, f"The gate asks held-out set {done.body['version']} from the next update on.")


@router.post(f"{HERE}/held-out/{{version}}/activate")
async def activate_held_out(request: Request, version: int, _caller: MayAdmin, _form: ProvenForm) -> Response:
    """Have the gate ask another version, or (0) what the settings name."""
    done = await act(request, "POST", f"/v1/admin/held-out/{version}/activate")
    what = f"held-out set {version}" if version else "what LEPO_HELDOUT names"
    return back(HERE, done.refused or f"The gate asks {what} from the next update on.")


@router.post(f"{HERE}/erase")
async def erase(request: Request, _caller: MayAdmin, form: ProvenForm) -> Response:
    """Delete all that is kept of a user; its name is typed twice."""
    user = form.get("user", "")
    if not user or user != form.get("again"):
        return back(HERE, "Nothing was deleted: type the user's name twice, the same.")
    done = await act(request, "DELETE", f"/v1/users/{quote(user, safe='')}/data")
    return back(HERE, done.refused or f"Deleted: {deleted_words(done.body)}.")


async def shown(
    request: Request,
    server: ServerDep,
    caller: Caller,
    *,
    spec: str = SPEC,
    tried: list[Tried] | None = None,
    refused: str | None = None,
    made: str | None = None,
    lines: str = "",
) -> Response:
    """Show the page, with what came of the last click."""
    kept = await server.control.run(lambda session: read_kept(session, caller))
    told: dict[str, Any] = {"spec": spec, "tried": tried, "refused": refused, "made": made, "lines": lines}
    return page(request, "data.html", kept=kept, settings=server.settings, **told)


def read_kept(session: Session, caller: Caller) -> Kept:
    """Read what is this caller's to administer."""
    now = datetime.now(UTC)
    rows = [(row, state_of(row, now)) for row in keys.list_keys(session, caller.project)]
    projects = [(row, used(session, row.id)) for row in list_projects(session, caller.project)]
    sets = held_out.list_sets(session) if caller.rules else []
    return Kept(rows, projects, list_audit(session, project=caller.project, limit=30), sets)


def state_of(row: ApiKey, now: datetime) -> str:
    """Say whether a key opens."""
    if row.revoked_at is not None:
        return "revoked"
    return "expired" if row.expires_at is not None and row.expires_at <= now else "open"


def verdict_words(body: dict[str, Any]) -> str:
    """Write what a grader said."""
    if body["state"] == "graded":
        return f"{body['value']:g}"
    return f"{body['state'].replace('_', ' ')}: {body['detail']}"


def deleted_words(body: dict[str, Any]) -> str:
    """Write what a removal counted."""
    counts = {name: one for name, one in body.items() if isinstance(one, int) and not isinstance(one, bool)}
    return ", ".join(f"{one} {name.replace('_', ' ')}" for name, one in counts.items()) or "all that was kept"
