"""Who is calling: one door before every route but a handful, so that a route added tomorrow is closed by itself.

What passes it was let in, counted against its limits (`rates`), and, where an operator acts, written down (`audit`).
Leaves out keys themselves (`app.store.keys`), how grading tokens are made (`app.api.door.grading_tokens`) and what is
particular to browsers, which come with a cookie (`app.api.door.browsers`).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from fastapi import Request
from sqlalchemy.orm import Session
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.door import browsers
from app.api.door.audit import READS, is_action, written_down
from app.api.door.callers import Caller
from app.api.door.grading_tokens import PREFIX, GradingToken, read_token
from app.api.http.errors import error_response
from app.api.server import Server
from app.errors import Forbidden, LepoError, Unauthorized
from app.settings import Settings
from app.store import clock, keys
from app.store.console_sessions import key_of
from app.store.lent import is_open
from app.store.projects import Bounds, bounds, used
from app.store.tables import ApiKey

OPEN: Final = frozenset(
    {
        *("/", "/health", "/ready", "/version", "/metrics"),
        *("/openapi.json", "/docs", "/docs/start.js", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"),
        *("/console/sign-in", "/console/static/console.css", "/console/static/console.js"),
        *("/console/static/htmx.min.js", "/console/static/playground.js"),
    }
)


class Door:
    """ASGI layer that lets known callers in; it stands outside the routes."""

    def __init__(self, app: ASGIApp, server: Callable[[], Server]) -> None:
        self.app = app
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self.app(scope, receive, send)
            return
        server = self._server()
        try:
            admin = scope["path"].startswith("/v1/admin")
            text, cookie = bearer(scope), browsers.cookie(scope)
            if text is None and cookie is not None:
                caller = await signed_in(server, cookie)
                browsers.require_own_page(scope, cookie)
            else:
                caller = await authenticate(server, text, address(scope), admin=admin)
            scope.setdefault("state", {})["caller"] = caller
            if is_limited(scope):
                send = with_headers(send, await server.rates.admit(caller))
            if is_action(scope, caller):
                await written_down(server, scope, caller, send, lambda seen: self.app(scope, receive, seen))
                return
        except LepoError as error:
            await (browsers.way_in(scope, error) or error_response(error))(scope, receive, send)
            return
        await self.app(scope, receive, send)


def bearer(scope: Scope) -> str | None:
    """Read the key of an `Authorization: Bearer` header."""
    kind, _, text = Headers(scope=scope).get("authorization", "").partition(" ")
    return text.strip() if kind.lower() == "bearer" else None


def address(scope: Scope) -> str:
    """Say where a request comes from."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def is_limited(scope: Scope) -> bool:
    """Whether a request counts against its key's rates: whatever asks for work, but for what operators do.

    What the console does it asks of the API, which counts it.
    """
    return scope["method"] not in READS and not scope["path"].startswith(("/v1/admin", "/v1/users", "/console"))


def with_headers(send: Send, headers: dict[str, str]) -> Send:
    """Add headers to a response."""
    if not headers:
        return send

    async def send_more(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return send_more


async def authenticate(server: Server, text: str | None, address: str, *, admin: bool) -> Caller:
    """Find out who is calling.

    Raises:
        Unauthorized: no key, or one that does not open.
        TooMany: this address has tried too many such keys.
        Unavailable: the store cannot be asked.

    """
    digest = hashlib.sha256((text or "").encode("utf-8", "replace")).digest()
    if (caller := server.believed.get(digest)) is not None:
        return caller
    find = await reader(server, text)
    if not server.believed.knows(digest):
        if (refusal := server.strangers.refusal(digest)) is not None:
            raise Unauthorized(refusal.message, code=refusal.code)
        server.strangers.require_patience(address)
    try:
        caller = await (server.control if admin else server.traffic).run(find)
    except Unauthorized as error:
        server.strangers.turn_away(digest, address, error)
        raise
    server.believed.put(digest, caller)
    return caller


async def signed_in(server: Server, cookie: str) -> Caller:
    """Find out who is signed in.

    Raises:
        Unauthorized: nobody, any more.
        Unavailable: the store cannot be asked.

    """
    digest = hashlib.sha256(b"cookie:" + cookie.encode("utf-8", "replace")).digest()
    if (caller := server.believed.get(digest)) is None:
        find = partial(of_cookie, cookie=cookie, settings=server.settings)
        caller = await server.control.run(find)
        server.believed.put(digest, caller)
    return caller


def of_cookie(session: Session, cookie: str, settings: Settings) -> Caller:
    """Look up the key that a browser signed in with.

    Raises:
        Unauthorized: the session or the key is closed.

    """
    return holder(session, key_of(session, cookie), settings)


async def reader(server: Server, text: str | None) -> Callable[[Session], Caller]:
    """Say how to look up a key or a token; what cannot be one is refused without a query.

    Raises:
        Unauthorized: no key, or nothing that this service made.

    """
    if text is not None and text.startswith(PREFIX):
        token = read_token(text, await server.grading_secret())
        return partial(of_token, token=token, settings=server.settings)
    keys.require_form(text)
    return partial(of_key, text=text, settings=server.settings)


def of_key(session: Session, text: str | None, settings: Settings) -> Caller:
    """Look a key up.

    Raises:
        Unauthorized: none was sent, or it does not open.

    """
    return holder(session, keys.authenticate(session, text, clock.now(session)), settings)


def holder(session: Session, key: ApiKey, settings: Settings) -> Caller:
    """Describe who holds an open key."""
    held = bounds(session, key, settings)
    caller = Caller(key.id, frozenset(key.scopes), project=key.project_id, bounds=held)
    return replace(caller, used=used(session, caller.home)) if counts(held) else caller


def of_token(session: Session, token: GradingToken, settings: Settings) -> Caller:
    """Look up the key that made a token: closing a key closes what it gave away.

    Raises:
        Unauthorized: the token has expired or was taken back, or the key was revoked or has expired.

    """
    now = clock.now(session)
    if token.expires <= now.timestamp():
        raise Unauthorized("This grading token has expired; ask for a new one.", code="expired_grading_token")
    key = session.get(ApiKey, token.key_id)
    if key is None or key.revoked_at or (key.expires_at and key.expires_at <= now):
        raise Unauthorized("The key that made this grading token is closed.", code="invalid_grading_token")
    if not is_open(session, token.id):
        raise Unauthorized("This grading token was taken back; ask for a new one.", code="invalid_grading_token")
    held = bounds(session, key, settings)
    caller = Caller(
        token.key_id,
        frozenset({"grade"}),
        only=token.interaction_id,
        token=token.id,
        project=key.project_id,
        bounds=held,
    )
    return replace(caller, used=used(session, caller.home)) if counts(held) else caller


def counts(held: Bounds) -> bool:
    """Whether it matters how much a project uses."""
    return bool(held.stored_bytes or held.grading_seconds)


@dataclass(frozen=True, slots=True)
class Required:
    """A dependency that lets only callers with a scope through; `app.api.document` shows what it asks."""

    scope: keys.Scope
    tokens: bool  # whether a grading token will do
    projects: bool  # with the scope admin: whether an admin key of one project will do

    async def __call__(self, request: Request) -> Caller:
        """Give the caller.

        Raises:
            Forbidden: the key or token is good and may not do this.

        """
        caller: Caller = request.state.caller
        if not caller.may(self.scope):
            words = f"This key may not do this: it needs the scope {self.scope!r}. Make one with: lepo keys create"
            raise Forbidden(words)
        if caller.only is not None and not self.tokens:
            raise Forbidden("A grading token grades its one answer and does nothing else; use a key.")
        if self.scope == "admin" and not self.projects and not caller.rules:
            words = f"This key administers the project {caller.home}; this needs an admin key of the service."
            raise Forbidden(words, code="service_key_needed")
        return caller


def require(scope: keys.Scope, *, tokens: bool = False, projects: bool = False) -> Required:
    """Make a dependency that lets only callers with a scope through.

    Args:
        scope: what the key must allow.
        tokens: whether a grading token will do; it is out in browsers, so that most routes stay closed to it.
        projects: with the scope admin, whether an admin key of one project will do; such a route shows and changes
            what is that project's (`Caller.sees`) and nothing else.

    """
    return Required(scope, tokens, projects)
