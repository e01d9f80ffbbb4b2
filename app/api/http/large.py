"""Large JSON responses, made and written down beside the event loop, handed to the client in pieces.

The standard encoder does not let another thread run until it is done, and with the log-probabilities of a hundred
prompts that takes seconds; freeing what they were made of, all at once, takes a good part of one. So a value is encoded
in small parts, on a thread, and its long parts are iterators over what is `drained`: between two parts the event loop
goes on. Leaves out which responses are large: that is their routes' to know.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

import anyio.to_thread
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

AT_ONCE: Final = 32  # entries of a list that one call of the encoder takes
PIECE: Final = 65_536  # bytes handed over together

T = TypeVar("T")

encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode  # as JSONResponse


async def large_json(make: Callable[[], Any]) -> "InPieces":
    """Make a value and write it as JSON, both on another thread."""
    return await anyio.to_thread.run_sync(lambda: InPieces(pieces(make())))


def written(value: Any) -> Iterator[str]:
    """Write a value as JSON, in parts that are quick to make."""
    if isinstance(value, Mapping):
        yield "{"
        for place, (key, item) in enumerate(value.items()):
            yield f"{',' if place else ''}{encode(key)}:"
            yield from written(item)
        yield "}"
    elif isinstance(value, Iterator) or (isinstance(value, list | tuple) and any(map(long, value))):
        yield "["
        for place, item in enumerate(value):
            yield "," if place else ""
            yield from written(item)
        yield "]"
    elif isinstance(value, list | tuple):
        yield "["
        for start in range(0, len(value), AT_ONCE):
            yield ("," if start else "") + encode(value[start : start + AT_ONCE])[1:-1]
        yield "]"
    else:
        yield encode(value)


def drained(items: list[T]) -> Iterator[T]:
    """Give the items of a list one by one, and let go of each: the list is empty afterwards."""
    items.reverse()
    while items:
        yield items.pop()


def long(value: Any) -> bool:
    """Whether there is a long list somewhere in a value."""
    if isinstance(value, Mapping):
        return any(map(long, value.values()))
    return isinstance(value, list | tuple) and (len(value) > AT_ONCE or any(map(long, value)))


def pieces(value: Any) -> list[bytes]:
    """Write a value as JSON, in pieces worth sending."""
    found: list[bytes] = []
    parts: list[str] = []
    size = 0
    for part in written(value):
        parts.append(part)
        size += len(part)
        if size >= PIECE:
            found.append("".join(parts).encode())
            parts, size = [], 0
    return [*found, "".join(parts).encode()]


class InPieces(Response):
    """A response whose body lies ready in pieces."""

    media_type = "application/json"

    def __init__(self, body: list[bytes]) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"content-length": str(sum(map(len, body)))})
        self._pieces = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's
        """Send it, as fast as the client reads."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for place, piece in enumerate(self._pieces):
            await send({"type": "http.response.body", "body": piece, "more_body": place + 1 < len(self._pieces)})
