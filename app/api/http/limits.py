"""The outermost layer: a request id on every response, and a bound on every body, chunked ones too.

A body beyond the bound is read on and thrown away for a while before the 413 is sent: a client that is still writing
when the connection closes would see a broken pipe instead of the answer. Leaves out who may ask (`app.api.door`).
"""

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.http.errors import error_response
from app.errors import LepoError, TooLarge
from app.telemetry.log import note

DISCARD_FACTOR = 64  # times the bound that is still read and thrown away
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class NotEncoded(LepoError):
    """A body is compressed: what it grows to cannot be bounded before it is read."""

    status = 415
    default_code = "unsupported_encoding"


class BodyTooLarge(Exception):
    """The bound was passed while the body was read."""


class Limits:
    """ASGI layer around the whole application."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-request-id", "")
        request_id = asked if REQUEST_ID.fullmatch(asked) else f"req_{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = request_id
        note(request_id=request_id)

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self._bounded(scope, receive, send_named)

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on with its body read whole, or refuse it."""
        coding = Headers(scope=scope).get("content-encoding", "identity")
        if coding.strip().lower() not in {"", "identity"}:
            words = (
                f"Bodies are read as they are sent, for their size is bounded; send this one without {coding[:32]!r}."
            )
            await error_response(NotEncoded(words))(scope, receive, send)
            return
        try:
            body = await self._body(receive, declared_length(scope))
        except BodyTooLarge:
            words = f"The body is larger than {self.max_body_bytes} bytes; shorten it, or raise LEPO_MAX_BODY_BYTES."
            response = error_response(TooLarge(words))
            response.headers["connection"] = "close"
            await response(scope, receive, send)
            return
        if body is None:
            return
        delivered = False

        async def replay() -> Message:
            nonlocal delivered
            if delivered:
                return await receive()
            delivered = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    async def _body(self, receive: Receive, declared: int) -> bytes | None:
        """Read the body; None when the client left before its end.

        Raises:
            BodyTooLarge: after the excess was read and dropped, up to a bound of its own.

        """
        chunks: list[bytes] = []
        size = 0
        more = True
        too_large = declared > self.max_body_bytes
        while more and size <= self.max_body_bytes * DISCARD_FACTOR:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            more = message.get("more_body", False)
            size += len(chunk)
            too_large = too_large or size > self.max_body_bytes
            if not too_large:
                chunks.append(chunk)
            else:
                chunks.clear()
        if too_large:
            raise BodyTooLarge
        return b"".join(chunks)


def declared_length(scope: Scope) -> int:
    """Content-Length of the request, 0 when there is none."""
    declared = Headers(scope=scope).get("content-length", "0")
    return int(declared) if declared.isdecimal() else 0
