"""Noticing that a client has left, while its answer is being made."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from starlette.types import Receive

from app.errors import LepoError


class ClientLeft(LepoError):
    """Nobody reads the answer any more; it ends a request whose client left before there was one."""

    status = 499
    default_code = "client_left"


@asynccontextmanager
async def watched(receive: Receive, on_leave: Callable[[], None]) -> AsyncIterator[None]:
    """Call `on_leave` if the client disconnects before the block ends."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        on_leave()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher
