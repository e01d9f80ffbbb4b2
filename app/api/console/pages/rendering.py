"""From a template and values to a page; its policy lets only our own files load, and no script stand in it.

Leaves out what a page shows.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any, Final

from fastapi import Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse

from app.api.console.pages import words
from app.api.door import browsers
from app.api.door.callers import Caller
from app.identifiers import show

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SAFE: Final[Mapping[str, str]] = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
NAV: Final = (  # path, name, scope that it needs; `service`: an admin key of the whole service
    ("/console", "Overview", "service"),
    ("/console/answers", "Answers", "infer"),
    ("/console/review", "Review", "grade"),
    ("/console/policies", "Policies", "service"),
    ("/console/jobs", "Jobs", "service"),
    ("/console/playground", "Playground", "infer"),
    ("/console/data", "Data and keys", "admin"),
)


@cache
def environment() -> Environment:
    """Read the templates once per process; what is not given to a template is an error, not an empty place."""
    folder = str(files("app.api.console").joinpath("templates"))
    made = Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    made.filters |= {
        "percent": words.percent,
        "points": words.points,
        "number": words.number,
        "ago": words.ago,
        "at": words.moment,
        "figure": words.figure,
        "shown": show,
    }
    return made


def may(caller: Caller, scope: str) -> bool:
    """Tell whether somebody may open a page."""
    return caller.rules if scope == "service" else caller.may(scope)  # type: ignore[arg-type]


def landing(caller: Caller) -> str:
    """Say which page is somebody's first."""
    return next(path for path, _, scope in NAV if may(caller, scope))


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Show a page, or a part of one, to whoever is signed in."""
    caller: Caller = request.state.caller
    cookie = browsers.cookie(request.scope) or ""
    common = {
        "caller": caller,
        "csrf": browsers.csrf_token(cookie),
        "nav": [(path, name) for path, name, scope in NAV if may(caller, scope)],
        "here": request.url.path,
        "release": version("lepo-service"),
        "now": datetime.now(UTC),
        "told": request.query_params.get("told", "")[:300],
    }
    return html(template, status, {**common, **values})


def fragment(template: str, **values: Any) -> str:
    """Fill in a part of a page that holds no form."""
    return environment().get_template(template).render(values)


def html(template: str, status: int, values: Mapping[str, Any]) -> HTMLResponse:
    """Fill a template in."""
    text = environment().get_template(template).render(values)
    return HTMLResponse(text, status, headers=dict(SAFE))
