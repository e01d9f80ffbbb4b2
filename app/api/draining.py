"""A uvicorn server that drains its engine while it closes: no answer is broken off before its time.

uvicorn stops listening and waits for open requests; the engine meanwhile takes no new ones and, when the time is up,
ends what is left as cancelled, so that every open request still gets its last words and its row.
"""

import asyncio
import socket

import uvicorn
from fastapi import FastAPI

from app.api.wire import Wire
from app.engine.engine import Engine
from app.settings import Settings

RECORDING_S = 5  # for the rows of answers that the drain's end cut short


class DrainingServer(uvicorn.Server):
    """One listening socket, one app, one engine."""

    def __init__(self, config: uvicorn.Config, engine: Engine, drain_s: float) -> None:
        super().__init__(config)
        self._engine = engine
        self._drain_s = drain_s

    @classmethod
    def of(cls, app: FastAPI, engine: Engine, settings: Settings) -> "DrainingServer":
        """Make the server for an app and its engine."""
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            http=Wire,
            ws="none",
            timeout_keep_alive=settings.keep_alive_seconds,
            timeout_graceful_shutdown=int(settings.drain_seconds) + RECORDING_S,
        )
        return cls(config, engine, settings.drain_seconds)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the engine and the connections side by side."""
        closing = asyncio.create_task(asyncio.to_thread(self._engine.close, self._drain_s))
        await super().shutdown(sockets)
        await closing
