"""What a click does: it asks the API, in this process, as whoever is signed in.

So the console can do nothing that a call could not: the same route, scopes, limits, audit and words when it is refused.
Leaves out which click asks for what.
"""

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import httpx
from fastapi import Request
from starlette.responses import RedirectResponse, Response

from app.api.door import browsers

PATIENCE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Done:
    """What the API said."""

    status: int
    body: dict[str, Any]  # as its route documents; {"error": ...} when it refused

    @property
    def refused(self) -> str | None:
        """Why it was not done, in words; None: it was."""
        return None if self.status < 400 else str(self.body["error"]["message"])


async def act(
    request: Request, method: str, path: str, body: dict[str, Any] | None = None, *, text: str | None = None
) -> Done:
    """Ask a route of the API, with a body of JSON, or a text as it is."""
    cookie = browsers.cookie(request.scope) or ""
    headers = {
        "host": request.headers.get("host", "console"),
        "cookie": f"{browsers.cookie_name(request.headers)}={cookie}",
        browsers.HEADER: browsers.csrf_token(cookie),
    }
    client = request.client
    transport = httpx.ASGITransport(request.app, client=(client.host, client.port) if client else ("127.0.0.1", 0))
    async with httpx.AsyncClient(transport=transport, base_url="http://console", timeout=PATIENCE_S) as api:
        answer = await api.request(method, path, json=body, content=text, headers=headers)
    return Done(answer.status_code, answer.json())


def back(path: str, told: str) -> Response:
    """Send the reader on to a page that says what came of it."""
    joint = "&" if "?" in path else "?"
    return RedirectResponse(f"{path}{joint}told={quote(told)}", status_code=303)
