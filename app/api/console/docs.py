"""`GET /docs` and `/openapi.json`: the description of every route, to read and to try out, without a network.

The page and its script are ours, Swagger UI's two files lie beside them (`swagger/`, with their licence). A strict
policy lets nothing else load and no script stand in the page; a key that is typed in stays in the page's memory. Leaves
out what the description says (`app.api.document`).
"""

from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from app.errors import NotFound

router = APIRouter(tags=["health"])

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SAFE: Final = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
KINDS: Final = {
    "start.js": "text/javascript; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
}
DAY_S: Final = 24 * 3600


@router.get("/docs", include_in_schema=False)
def docs() -> Response:
    """Give the page."""
    return HTMLResponse(asset("docs.html"), headers=SAFE)


@router.get("/openapi.json", include_in_schema=False)
def description(request: Request) -> Response:
    """Give the description; it is written at the first look, on a thread, for that takes a while."""
    return JSONResponse(request.app.openapi())


@router.get("/docs/{name}", include_in_schema=False)
def part(name: str) -> Response:
    """Give a file that the page loads."""
    if name not in KINDS:
        raise NotFound("There is no such file.")
    headers = {**SAFE, "Cache-Control": f"max-age={DAY_S}"}
    return Response(asset(name), media_type=KINDS[name], headers=headers)


def asset(name: str) -> bytes:
    """Read a file beside this one."""
    return files("app.api.console").joinpath("swagger", name).read_bytes()
