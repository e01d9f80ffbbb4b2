"""Which requests are an operator's actions, and writing them down before and after.

Every change under `/v1/admin`, a user's or an answer's removal, and every export, by a key with the scope admin; a
route added tomorrow is among them by itself. The user in a removal's path is not kept. Leaves out the entries
(`app.store.audit`).
"""

import logging
import re
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.types import Message, Scope, Send

from app.api.door.callers import Caller
from app.api.server import Server
from app.errors import LepoError
from app.store import audit

READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
USER: Final = re.compile(r"^/v1/users/.*/data$", re.DOTALL)
LONGEST: Final = 300  # characters of a path

log = logging.getLogger("lepo.api")


def is_action(scope: Scope, caller: Caller) -> bool:
    """Tell whether a request is an operator's action."""
    method, path = str(scope["method"]), str(scope["path"])
    if "admin" not in caller.scopes:
        return False
    if method in READS:
        return path == "/v1/admin/export"
    removal = method == "DELETE" and path.startswith("/v1/interactions/") and path.count("/") == 3
    return removal or path.startswith(("/v1/admin/", "/v1/users/"))


def action(scope: Scope) -> str:
    """Say what a request does."""
    path = "/v1/users/*/data" if USER.match(scope["path"]) else scope["path"][:LONGEST]
    return f"{scope['method']} {path}"


async def written_down(
    server: Server, scope: Scope, caller: Caller, send: Send, work: Callable[[Send], Awaitable[None]]
) -> None:
    """Do something between the two entries that tell of it.

    Raises:
        Unavailable: it cannot be written down; nothing was done.

    """
    request_id = scope["state"].get("request_id")
    entry = await server.control.run(
        lambda session: audit.begin(session, caller.key_id, caller.project, action(scope), request_id)
    )
    status: str | None = None

    async def send_seen(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = str(message["status"])
        await send(message)

    try:
        await work(send_seen)
    finally:
        outcome, target = status or "500", scope["state"].get("audit_target")
        try:
            await server.control.run(lambda session: audit.end(session, entry, outcome, target))
        except LepoError as error:
            log.warning("how an operator's action ended could not be written down: %s", error.message)
