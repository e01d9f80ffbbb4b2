"""`GET /dashboard`: one page that answers "is it getting better?".

The page holds no data: its script asks `/v1/admin/overview` with the admin key its reader types in. Nothing is loaded
from elsewhere, and its policy lets nothing else load. Leaves out the figures (`app.store.overview`).
"""

from importlib.resources import files
from typing import Final

from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response

router = APIRouter(tags=["health"])

POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@router.get("/dashboard", include_in_schema=False)
def dashboard() -> Response:
    """Give the page."""
    page = files("app.api.console").joinpath("dashboard.html").read_text(encoding="utf-8")
    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}
    return HTMLResponse(page, headers=headers)
