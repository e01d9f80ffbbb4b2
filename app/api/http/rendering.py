"""Large JSON responses, written apart from the event loop and in small pieces.

Log-probabilities of a long text are tens of megabytes of JSON. Encoding them in one call would hold the interpreter,
and with it every other request, for seconds, on whatever thread it ran; so containers near the root are walked here and
only what lies below them is encoded at once. Leaves out what is written, and streams (`app.api.openai.stream`).
"""

import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from starlette.responses import JSONResponse, Response

WALKED: Final = 5  # levels below the root that are walked: choices, one, its logprobs, their list; then a token

Apart = Callable[[Callable[[], bytes]], Awaitable[bytes]]  # runs work on a thread


async def json_apart(build: Callable[[], dict[str, Any]], apart: Apart) -> Response:
    """Build a response and write it, both on a thread."""
    return Response(await apart(lambda: encoded(build())), media_type=JSONResponse.media_type)


def encoded(value: Any) -> bytes:
    """Write JSON as `JSONResponse` does, a little at a time."""
    return "".join(pieces(value, WALKED)).encode()


def pieces(value: Any, levels: int) -> Iterator[str]:
    """Write a value; containers within so many levels member by member."""
    if levels and isinstance(value, dict):
        for place, (name, item) in enumerate(value.items()):
            yield ("," if place else "{") + json.dumps(name, ensure_ascii=False) + ":"
            yield from pieces(item, levels - 1)
        yield "}" if value else "{}"
    elif levels and isinstance(value, list):
        for place, item in enumerate(value):
            yield "," if place else "["
            yield from pieces(item, levels - 1)
        yield "]" if value else "[]"
    else:
        yield json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
