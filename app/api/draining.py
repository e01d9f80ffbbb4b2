"""A uvicorn server that drains its engine while it closes: no answer is broken off before its time.

uvicorn stops listening and waits for open requests; the engine meanwhile takes no new ones and, when the time is up,
ends what is left as cancelled, so that every open request still gets its last words and its row. A server whose engine
has failed, or whose watch over the policy has died, closes too, and says why: another process can do better.
"""

import asyncio
import logging
import socket

import uvicorn
from fastapi import FastAPI

from app.api.http.wire import Wire
from app.api.server import Server
from app.engine.engine import Engine
from app.settings import Settings

RECORDING_S = 5  # for the rows of answers that the drain's end cut short

log = logging.getLogger("lepo.api")


class DrainingServer(uvicorn.Server):
    """One listening socket, one app, one engine."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, engine: Engine, drain_s: float) -> None:
        super().__init__(config)
        self._app = app
        self._engine = engine
        self._drain_s = drain_s
        self.failure: str | None = None  # why it closed by itself

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
        return cls(config, app, engine, settings.drain_seconds)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then start the application; where another process was quicker, close instead."""
        try:
            for one in sockets or ():
                one.listen(self.config.backlog)
        except OSError as error:
            self.failure = f"Cannot listen: {error.strerror}. Set LEPO_HOST or LEPO_PORT."
            self.should_exit = True
            return
        await super().startup(sockets)
        for one in sockets or ():
            log.info("listening on http://%s:%d", *one.getsockname()[:2])

    async def on_tick(self, counter: int) -> bool:
        """Do what uvicorn does ten times a second, and look whether there is still something that can answer."""
        self.failure = self.failure or what_broke(self._app.state.server)
        return await super().on_tick(counter) or self.failure is not None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the engine and the connections side by side."""
        closing = asyncio.create_task(asyncio.to_thread(self._engine.close, self._drain_s))
        await super().shutdown(sockets)
        await closing


def what_broke(server: Server) -> str | None:
    """Say what makes a server useless for good; None while all is well."""
    if server.engine.failure is not None:
        return f"The engine has failed ({type(server.engine.failure).__name__}: {server.engine.failure}); see above."
    if any(task.done() for task in server.background):
        return "A part of the server has died; see above."
    return None
