"""Large JSON responses, written apart from the event loop and in small pieces.

Log-probabilities of a long text are tens of megabytes of JSON. Encoding them in one call would hold the interpreter,
and with it every other request, for seconds, on whatever thread it ran; so containers near the root are walked here and
only what lies below them is encoded at once. What is given as an iterator is made as it is written, so that there never
are more objects than of one member: else each collection of garbage looks through all of them, and stops every thread.
Leaves out what is written, and streams (`app.api.openai.stream`).
"""

import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

WALKED: Final = 5  # levels below the root that are walked: choices, one, its logprobs, their list; then a token
BLOCK: Final = 65_536  # characters put together, and bytes handed to the connection, at once

Apart = Callable[[Callable[[], list[bytes]]], Awaitable[list[bytes]]]  # runs work on a thread


class LargeJson(Response):
    """A response that leaves block by block, as fast as its client reads."""

    media_type = JSONResponse.media_type

    def __init__(self, blocks: list[bytes]) -> None:
        super().__init__(headers={"content-length": str(sum(map(len, blocks)))})
        self._blocks = blocks

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send the blocks."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for block in self._blocks:
            await send({"type": "http.response.body", "body": block, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def json_apart(build: Callable[[], dict[str, Any]], apart: Apart) -> Response:
    """Build a response and write it, both on a thread."""
    return LargeJson(await apart(lambda: list(blocks(build()))))


def encoded(value: Any) -> bytes:
    """Write JSON as `JSONResponse` does, a little at a time."""
    return b"".join(blocks(value))


def blocks(value: Any) -> Iterator[bytes]:
    """Write JSON in blocks of some size."""
    held: list[str] = []
    size = 0
    for piece in pieces(value, WALKED):
        held.append(piece)
        size += len(piece)
        if size >= BLOCK:
            yield "".join(held).encode()
            held.clear()
            size = 0
    yield "".join(held).encode()


def pieces(value: Any, levels: int) -> Iterator[str]:
    """Write a value; containers within so many levels member by member."""
    if levels and isinstance(value, dict):
        for place, (name, item) in enumerate(value.items()):
            yield ("," if place else "{") + json.dumps(name, ensure_ascii=False) + ":"
            yield from pieces(item, levels - 1)
        yield "}" if value else "{}"
    elif levels and isinstance(value, list | Iterator):
        begun = False
        for item in value:
            yield "," if begun else "["
            begun = True
            yield from pieces(item, levels - 1)
        yield "]" if begun else "[]"
    else:
        yield json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
