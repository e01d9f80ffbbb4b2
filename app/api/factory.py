"""The application: its layers, its routes, and its life from start to drain.

From outside in: CORS, what counts and logs requests, request ids and the bound on bodies, the door, HEAD as GET, then
the routes. Every dependency comes in through `Parts`; nothing is read from the environment here. Leaves out making the
parts (`app.api.serve`).
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from app.api.admin import audit, checkpoints, erasure, export, held_out, jobs, keys, learning, projects, trials
from app.api.admin.shapes import ExportedAnswer
from app.api.console import docs, health, interactions, overview
from app.api.console.pages.all import console_routers
from app.api.document import document
from app.api.door.auth import Door
from app.api.grading import graders, grades, sessions, tokens
from app.api.http import errors
from app.api.http.heads import Heads
from app.api.http.limits import Limits
from app.api.http.methods import Methods
from app.api.openai import chat, completions, models, responses, tokenize
from app.api.openai.chat_shapes import ChatCompletionChunk
from app.api.openai.completion_shapes import TextCompletionChunk
from app.api.openai.responses_shapes import ResponseStreamEvent
from app.api.policy.bell import listen
from app.api.policy.watch import PolicyWatch
from app.api.server import Parts, Server
from app.telemetry.layer import Observed

log = logging.getLogger("lepo.api")

ROUTERS = (
    *(chat.router, completions.router, responses.router, models.router, tokenize.router),
    *(interactions.router, grades.router, tokens.router, projects.router, audit.router, docs.router),
    *(graders.router, jobs.router, checkpoints.router, trials.router, learning.router, keys.router),
    *(overview.router, erasure.router, export.router, sessions.router, held_out.router),
    *(health.router, *console_routers()),
)

# models of what streams hold, which no response names
STREAMED = (ChatCompletionChunk, TextCompletionChunk, ResponseStreamEvent, ExportedAnswer)

EXPOSED = (
    *("x-request-id", "retry-after", "x-served-by"),
    *(f"x-ratelimit-{of}-{what}" for what in ("requests", "tokens") for of in ("limit", "remaining", "reset")),
)


def create_app(parts: Parts) -> FastAPI:
    """Put a server together; it starts the engine when it starts, and closes it when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with alive(parts) as server:
            app.state.server = server
            yield

    app: FastAPI = FastAPI(
        lifespan=lifespan,
        docs_url=None,  # `app.api.console.docs`
        openapi_url=None,  # the same
        redoc_url=None,
        redirect_slashes=False,  # a redirect would not be in OpenAI's shape, and clients drop the body on it
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origins=parts.settings.origins,
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=EXPOSED,
            ),
            Middleware(Observed, counted=lambda: app.state.server.metrics, routes=paths()),
            Middleware(Limits, max_body_bytes=parts.settings.max_body_bytes),
            Middleware(Door, server=lambda: app.state.server),
            Middleware(Heads),
        ],
    )
    with_routes(app)
    parts.telemetry.follow_app(app)
    parts.telemetry.follow_stores(parts.traffic, parts.control)
    return app


def with_routes(app: FastAPI) -> FastAPI:
    """Give an application its routes, what it answers when something is wrong, and its document."""
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router)
    app.state.methods = Methods(route for router in ROUTERS for route in router.routes)

    def described() -> dict[str, Any]:
        app.openapi_schema = app.openapi_schema or document(app, ROUTERS, STREAMED)
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]  # as FastAPI's own documentation says to
    return app


def paths() -> frozenset[str]:
    """Name the path of every route, with names in place of ids."""
    return frozenset(route.path for router in ROUTERS for route in router.routes if isinstance(route, Route))


@asynccontextmanager
async def alive(parts: Parts) -> AsyncIterator[Server]:
    """Run the engine and the watch over the policy for as long as the block lasts."""
    server = Server(parts)
    parts.engine.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, server.close)
        stack.push_async_callback(server.rates.close)
        stack.push_async_callback(asyncio.to_thread, parts.engine.close, parts.settings.drain_seconds)
        await stack.enter_async_context(background(server, PolicyWatch(server).run()))
        if parts.redis_url is not None:
            await stack.enter_async_context(background(server, listen(parts.redis_url, server.policy_bell)))
        yield server


@asynccontextmanager
async def background(server: Server, work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run work beside the block, and stop it when the block ends; should it die before, /health says so."""
    task = asyncio.create_task(work)
    task.add_done_callback(tell_death)
    server.background.add(task)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def tell_death(task: asyncio.Task[None]) -> None:
    """Log why something that should live for ever has died."""
    if not task.cancelled() and task.exception() is not None:
        log.critical("a part of the server has died", exc_info=task.exception())
