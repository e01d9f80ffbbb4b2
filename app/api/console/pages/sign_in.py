"""Signing in to the console, with a key or a link that works once, and out again.

The link's secret stands behind `#`, which browsers send nowhere: the page's script puts it into the form. Leaves out
what the cookie is believed for (`app.api.door.browsers`).
"""

from datetime import timedelta
from importlib.metadata import version
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from app.api.console.pages.forms import ProvenForm, read_form
from app.api.console.pages.rendering import SAFE, html
from app.api.door import browsers
from app.api.door.auth import address, authenticate
from app.api.server import Server, ServerDep
from app.errors import LepoError, NotFound, Unauthorized
from app.store import console_sessions

router = APIRouter(include_in_schema=False)

KINDS: Final = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "playground.js": "text/javascript; charset=utf-8",
    "htmx.min.js": "text/javascript; charset=utf-8",
}


@router.get("/console/static/{name}")
def static(name: str) -> Response:
    """Give a file that the pages load."""
    if name not in KINDS:
        raise NotFound("There is no such file.")
    content = files("app.api.console").joinpath("static", name).read_bytes()
    return Response(content, media_type=KINDS[name], headers={**SAFE, "Cache-Control": "max-age=300"})


@router.get(browsers.SIGN_IN)
async def ask(next: str = browsers.CONSOLE) -> Response:  # noqa: A002  the query's name
    """Ask for a key."""
    return shown(next, None)


@router.post(browsers.SIGN_IN)
async def sign_in(request: Request, server: ServerDep) -> Response:
    """Let a browser in."""
    browsers.require_same_site(request.headers)
    form = await read_form(request)
    to = form.get("next", "")
    try:
        text = await opened(request, server, form)
    except LepoError as error:
        return shown(to, error)
    answer = RedirectResponse(own_path(to), status_code=303)
    answer.set_cookie(
        browsers.cookie_name(request.headers),
        text,
        max_age=int(server.settings.console_hours * 3600),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/console/sign-out")
async def sign_out(request: Request, server: ServerDep, _form: ProvenForm) -> Response:
    """Let a browser out; here at once, on other replicas within seconds."""
    cookie = browsers.cookie(request.scope) or ""
    await server.control.run(lambda session: console_sessions.close_session(session, cookie))
    server.believed.forget()
    answer = RedirectResponse(browsers.SIGN_IN, status_code=303)
    answer.delete_cookie(browsers.cookie_name(request.headers), httponly=True, samesite="strict")
    return answer


async def opened(request: Request, server: Server, form: dict[str, str]) -> str:
    """Open a session for a key or a link; returns what the cookie holds.

    Raises:
        Unauthorized: neither opens.
        TooMany: this address has tried too many keys.

    """
    lasts = timedelta(hours=server.settings.console_hours)
    link = form.get("link", "")
    if link:
        return await server.control.run(
            lambda session: console_sessions.open_session(session, console_sessions.use_link(session, link), lasts)
        )
    caller = await authenticate(server, form.get("key", "").strip(), address(request.scope), admin=False)
    if caller.only is not None:
        raise Unauthorized("A grading token grades its one answer; the console needs a key.")
    return await server.control.run(lambda session: console_sessions.open_session(session, caller.key_id, lasts))


def own_path(text: str) -> str:
    """Give where to go after signing in: a page of the console, whatever was asked for."""
    plain = text.startswith((browsers.CONSOLE + "/", browsers.CONSOLE + "?")) and "\\" not in text
    return text if plain and "//" not in text else browsers.CONSOLE


def shown(to: str, error: LepoError | None) -> Response:
    """Show the form, and why it did not open."""
    words = None if error is None else error.message
    values = {"next": own_path(to), "error": words, "release": version("lepo-service")}
    return html("sign_in.html", 200 if error is None else error.status, values)
