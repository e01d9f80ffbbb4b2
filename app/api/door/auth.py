"""Who is calling: one door before every route but a handful, so that a route added tomorrow is closed by itself.

Leaves out keys themselves (`app.store.keys`) and how grading tokens are made (`app.api.door.grading_tokens`).
"""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Final

from fastapi import Request
from sqlalchemy.orm import Session
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.door.callers import Caller
from app.api.door.grading_tokens import PREFIX, GradingToken, read_token
from app.api.http.errors import error_response
from app.api.server import Server
from app.errors import Forbidden, LepoError, Unauthorized
from app.store import clock, keys
from app.store.tables import ApiKey

OPEN: Final = frozenset({"/", "/health", "/ready", "/version", "/metrics", "/openapi.json", "/docs", "/dashboard"})


class Door:
    """ASGI layer that lets known callers in; it stands outside the routes."""

    def __init__(self, app: ASGIApp, server: Callable[[], Server]) -> None:
        self.app = app
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope["path"] not in OPEN:
            try:
                caller = await authenticate(self._server(), bearer(scope), admin=scope["path"].startswith("/v1/admin"))
            except LepoError as error:
                await error_response(error)(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
        await self.app(scope, receive, send)


def bearer(scope: Scope) -> str | None:
    """Read the key of an `Authorization: Bearer` header."""
    kind, _, text = Headers(scope=scope).get("authorization", "").partition(" ")
    return text.strip() if kind.lower() == "bearer" else None


async def authenticate(server: Server, text: str | None, *, admin: bool) -> Caller:
    """Find out who is calling.

    Raises:
        Unauthorized: no key, or one that does not open.
        Unavailable: the store cannot be asked.

    """
    token = None
    if text is not None and text.startswith(PREFIX):
        token = read_token(text, await server.grading_secret())
    digest = hashlib.sha256((text or "").encode("utf-8", "replace")).digest()
    caller = server.believed.get(digest)
    if caller is None:
        pool = server.control if admin else server.traffic
        found = partial(of_key, text=text) if token is None else partial(of_token, token=token)
        caller = await pool.run(found)
        server.believed.put(digest, caller)
    return caller


def of_key(session: Session, text: str | None) -> Caller:
    """Look a key up.

    Raises:
        Unauthorized: none was sent, or it does not open.

    """
    key = keys.authenticate(session, text, clock.now(session))
    return Caller(key.id, frozenset(key.scopes))


def of_token(session: Session, token: GradingToken) -> Caller:
    """Look up the key that made a token: closing a key closes what it gave away.

    Raises:
        Unauthorized: the token has expired, or the key was revoked or has.

    """
    now = clock.now(session)
    if token.expires <= now.timestamp():
        raise Unauthorized("This grading token has expired; ask for a new one.", code="expired_grading_token")
    key = session.get(ApiKey, token.key_id)
    if key is None or key.revoked_at or (key.expires_at and key.expires_at <= now):
        raise Unauthorized("The key that made this grading token is closed.", code="invalid_grading_token")
    return Caller(token.key_id, frozenset({"grade"}), token.interaction_id)


def require(scope: keys.Scope, *, tokens: bool = False) -> Callable[[Request], Caller]:
    """Make a dependency that lets only callers with a scope through.

    Args:
        scope: what the key must allow.
        tokens: whether a grading token will do; it is out in browsers, so that most routes stay closed to it.

    Raises (the dependency):
        Forbidden: the key or token is good and may not do this.

    """

    def check(request: Request) -> Caller:
        caller: Caller = request.state.caller
        if not caller.may(scope):
            raise Forbidden(f"This key may not do this: it needs the scope {scope!r}. Make one with: lepo keys create")
        if caller.only is not None and not tokens:
            raise Forbidden("A grading token grades its one answer and does nothing else; use a key.")
        return caller

    return check
