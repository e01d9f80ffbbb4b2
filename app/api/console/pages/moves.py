"""Moving policies and learning by hand: a page that says what will happen, and the button that does it.

The API decides again when the button is pressed. Leaves out what the page says (`plans`) and the moves themselves
(`app.store.policy_life`, `app.store.learning`), which are asked of the API (`acting`).
"""

from typing import Annotated

from fastapi import Depends, Request
from starlette.responses import Response

from app.api.console.pages.acting import act, back
from app.api.console.pages.forms import ProvenForm
from app.api.console.pages.plans import Change, Step, plan_of, plan_of_change
from app.api.console.pages.rendering import page
from app.api.console.pages.routes import pages
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.server import ServerDep

router = pages()

MayRule = Annotated[Caller, Depends(require("admin"))]


@router.get("/console/policies/{version}/{step}")
async def confirm(request: Request, version: int, step: Step, server: ServerDep, _caller: MayRule) -> Response:
    """Say what a move will do."""
    settings = server.settings
    plan = await server.control.run(lambda session: plan_of(session, version, step, settings))
    return page(request, "confirm.html", plan=plan, action=request.url.path, away=f"/console/policies/{version}")


@router.post("/console/policies/{version}/{step}")
async def move(request: Request, version: int, step: Step, form: ProvenForm, _caller: MayRule) -> Response:
    """Make a move."""
    reason = {"reason": form["reason"]} if form.get("reason") else {}
    here = f"/v1/admin/checkpoints/{version}"
    if step == "rollback":
        done = await act(request, "POST", "/v1/admin/rollback", {"to": str(version), **reason})
    elif step in {"canary", "shadow"}:
        done = await act(request, "POST", f"{here}/trial", {"stage": step, **reason})
    else:
        done = await act(request, "POST", f"{here}/{step}", reason)
    words = done.refused or ("Done." if done.body.get("changed") else "It was so already; nothing changed.")
    return back(f"/console/policies/{version}", words)


@router.get("/console/learning/{change}")
async def confirm_change(request: Request, change: Change, server: ServerDep, _caller: MayRule) -> Response:
    """Say what freezing, thawing, pinning or unpinning will do."""
    plan = await server.control.run(lambda session: plan_of_change(session, change))
    return page(request, "confirm.html", plan=plan, action=request.url.path, away="/console")


@router.post("/console/learning/{change}")
async def make_change(request: Request, change: Change, form: ProvenForm, _caller: MayRule) -> Response:
    """Freeze, thaw, pin or unpin."""
    reason = {"reason": form["reason"]} if form.get("reason") else {}
    done = await act(request, "POST", f"/v1/admin/learning/{change}", reason)
    words = done.refused or ("Done." if done.body.get("changed") else "It was so already; nothing changed.")
    return back("/console", words)
