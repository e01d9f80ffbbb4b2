"""The layer around the whole HTTP application: each request is counted by its status, timed, and a line in the log.

Requests whose answer is a matter of course (probes and scrapes that went well) are counted and not logged. Leaves out
spans (`app.telemetry.tracing`) and the request id itself (`app.api.http.limits`).
"""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Final, Protocol
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.telemetry.log import begin

PROBES: Final = frozenset({"/health", "/ready", "/metrics"})
UNKNOWN: Final = "other"  # in place of a path that no route has: a caller's own words would be a series for ever
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SESSION: Final = "x-session-id"
LONGEST_SESSION: Final = 200  # characters of it that are logged
LEFT: Final = 499  # in place of a status, where the client left before there was one

log = logging.getLogger("lepo.access")


class Counted(Protocol):
    """What hears of each request: its method, the route's path with names in place of ids, status and seconds."""

    def requested(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count it."""
        ...


class Observed:
    """ASGI layer.

    Args:
        app: the application.
        counted: gives what counts requests, once there is any.
        routes: paths of the routes, for requests that never reach theirs.

    """

    def __init__(self, app: ASGIApp, counted: Callable[[], Counted], routes: Iterable[str]) -> None:
        self.app = app
        self._counted = counted
        self._fixed = frozenset(path for path in routes if "{" not in path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.monotonic()
        status = LEFT

        async def send_seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        session = Headers(scope=scope).get(SESSION)
        begin(**({"session_id": session[:LONGEST_SESSION]} if session else {}))  # each request has its own task
        try:
            await self.app(scope, receive, send_seen)
        finally:
            self._tell(scope, status, time.monotonic() - began)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else UNKNOWN
        self._counted().requested(method, self._route(scope), status, seconds)
        if scope["path"] not in PROBES or status >= 400:
            log.info("%s %s %d in %.0f ms", method, quote(scope["path"]), status, seconds * 1000)

    def _route(self, scope: Scope) -> str:
        """Name the route that took a request, or would have."""
        found = getattr(scope.get("route"), "path", None)
        if isinstance(found, str):
            return found
        return scope["path"] if scope["path"] in self._fixed else UNKNOWN
