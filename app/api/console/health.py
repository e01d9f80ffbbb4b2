"""`/health`, `/ready`, `/version`, `/metrics`, `/`: is it alive, should it get traffic, what is it, its numbers.

Open to everyone, so they say little. Leaves out what is counted (`app.api.metrics`).
"""

from importlib.metadata import version
from typing import Any, Final

from fastapi import APIRouter, Request
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from app.api.console import shapes
from app.api.server import ServerDep
from app.errors import LepoError, Unavailable
from app.store.migrate import is_current
from app.telemetry.learning import read_figures

READY_S: Final = 1.0  # whoever asks is a balancer with a short time-out; no answer is an answer
AILING: Final[dict[str, Any]] = {"description": "It is not; `error.code` says why."}

router = APIRouter(tags=["health"])


@router.get("/health", response_model=shapes.Health, responses={503: AILING})
async def health(server: ServerDep) -> Response:
    """Tell whether the process and its engine are alive; a 503 asks for a restart."""
    stats = server.engine.stats()
    if stats.state == "crashed":
        raise Unavailable("The engine has failed; its log says why.", code="engine_failed")
    if any(task.done() for task in server.background):
        raise Unavailable("The watch over the policy has died; its log says why.", code="watch_died")
    return JSONResponse({"status": "ok"})


@router.get("/ready", response_model=shapes.Ready, responses={503: AILING})
async def ready(server: ServerDep) -> Response:
    """Tell whether requests can be answered and remembered now."""
    await health(server)
    if server.engine.stats().state != "ready":
        raise Unavailable("The server is stopping.", code="stopping")
    if not await server.control.run(migrated, within_s=READY_S):
        raise Unavailable("The database is not at this release's schema; run: lepo migrate", code="not_migrated")
    return JSONResponse({"status": "ready", "policy_version": server.engine.version})


@router.get("/version", response_model=shapes.Version)
async def show_version(server: ServerDep) -> Response:
    """Name the release and the policy that new answers start on."""
    return JSONResponse({"version": version("lepo-service"), "policy_version": server.engine.version})


@router.get("/", include_in_schema=False, response_model=None)
async def show_the_way(request: Request, server: ServerDep) -> dict[str, Any] | Response:
    """Tell whoever comes to the front door what this is and where to go on; browsers go on to the console."""
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse("/console", status_code=303, headers={"Vary": "Accept"})
    return {
        "service": "lepo",
        "version": version("lepo-service"),
        "model": server.settings.served_name,
        "api": "/v1",
        "documentation": "/docs",
        "console": "/console",
        "ready": "/ready",
    }


def migrated(session: Session) -> bool:
    """Tell whether the schema is current."""
    return is_current(session.connection())


@router.get("/metrics", response_model=None, response_class=PlainTextResponse)
async def metrics(server: ServerDep) -> Response:
    """Write every metric in Prometheus' text form; a store that is away takes only its own figures with it."""
    learning = server.metrics.learning
    if learning.due:
        try:
            learning.show(await server.control.run(read_figures, within_s=READY_S))
        except LepoError:
            learning.show(None)
    return Response(generate_latest(server.metrics.registry), media_type=CONTENT_TYPE_LATEST)
