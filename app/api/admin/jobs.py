"""Updates of the policy, for operators: ask for one, follow it, cancel it.

A job is a row that says `queued`; the worker finds it at its next look. Leaves out the work (`worker`).
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import ValidationError
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse, Response

from app.api.admin import shapes
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.http.fields import JsonObject, Strict, Text, example
from app.api.http.once import REPEATABLE, Outcome, once
from app.api.http.pages import AFTER, Limit, after_id, cursor, page
from app.api.http.paths import known
from app.api.http.shapes import links
from app.api.server import ServerDep
from app.errors import BadRequest
from app.identifiers import show
from app.job_settings import of_job
from app.settings import Settings
from app.store import jobs
from app.store.base import Json
from app.store.events import list_events, say
from app.store.tables import Job, JobEvent

router = APIRouter(prefix="/v1/admin/jobs", tags=["admin"])

MayRule = Annotated[Caller, Depends(require("admin"))]


class JobBody(Strict):
    """An update to be made."""

    model_config = example(config={})

    config: JsonObject = {}  # noqa: RUF012  pydantic copies defaults; settings that differ from the service's


@router.post(
    "",
    response_model=shapes.Job,
    status_code=201,
    dependencies=[REPEATABLE],
    responses={201: links("get_job", "get_events", "cancel_job", job_id="/id")},
)
async def post_job(body: JobBody, request: Request, server: ServerDep, caller: MayRule) -> Response:
    """Ask for an update."""
    check_config(server.settings, body.config)

    def work(session: Session) -> Outcome:
        job = jobs.request(session, trigger="admin", requested_by=caller.key_id, config=body.config)
        session.refresh(job)
        return 201, job_json(job)

    return await once(server.control, request, caller, work)


@router.get(
    "", response_model=shapes.Jobs, responses={200: links("get_job", "get_events", "cancel_job", job_id="/data/0/id")}
)
async def list_jobs(
    server: ServerDep,
    _caller: MayRule,
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"] | None = None,
    limit: Limit = 50,
    after: Annotated[str | None, after_id("job")] = None,
) -> Response:
    """List jobs, the newest first."""
    begin = cursor("job", after)

    def listing(session: Session) -> dict[str, Any]:
        found = jobs.list_jobs(session, status=status, limit=limit + 1, after=begin)
        return page(found, limit, job_json, lambda job: show("job", job.id))

    return JSONResponse(await server.control.run(listing))


@router.get("/{job_id}", response_model=shapes.Job)
async def get_job(job_id: Text, server: ServerDep, _caller: MayRule) -> Response:
    """Read one job."""
    key = known("job", job_id)
    return JSONResponse(await server.control.run(lambda session: job_json(jobs.get_job(session, key))))


@router.get("/{job_id}/events", response_model=shapes.JobEvents)
async def get_events(
    job_id: Text,
    server: ServerDep,
    _caller: MayRule,
    after: Annotated[int, Query(ge=0, lt=2**63, description=AFTER)] = 0,
    limit: Limit = 100,
) -> Response:
    """Read a job's diary in order; to follow it, ask again with the last event's id as `after`."""
    key = known("job", job_id)

    def diary(session: Session) -> dict[str, Any]:
        jobs.get_job(session, key)
        events = list_events(session, key, after=after, limit=limit + 1)
        return page(events, limit, event_json, lambda event: str(event.id))

    return JSONResponse(await server.control.run(diary))


@router.post("/{job_id}/cancel", response_model=shapes.Job, dependencies=[REPEATABLE])
async def cancel_job(job_id: Text, request: Request, server: ServerDep, caller: MayRule) -> Response:
    """Cancel a job: at once while it waits, at its next heartbeat while it runs."""
    key = known("job", job_id)

    def work(session: Session) -> Outcome:
        job = jobs.cancel(session, key)
        say(session, key, f"{caller.key_id} asked to cancel it")
        return 200, job_json(job)

    return await once(server.control, request, caller, work)


def check_config(settings: Settings, config: Json) -> None:
    """Check the settings of one job as those of the service are checked.

    Raises:
        BadRequest: a setting that a job may not change, or a value out of its range.

    """
    try:
        of_job(settings, config)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, ("config", *first["loc"])))
        raise BadRequest(f"{path}: {first['msg']}.", param=path) from error
    except ValueError as error:
        raise BadRequest(f"config: {error}.", param="config") from error


def job_json(job: Job) -> dict[str, Any]:
    """Write a job."""
    times = ("created_at", "started_at", "finished_at", "heartbeat_at", "phase_started_at")
    return {
        "id": show("job", job.id),
        "object": "job",
        "kind": job.kind,
        "status": job.status,
        "trigger": job.trigger,
        "requested_by": job.requested_by,
        "config": job.config,
        "phase": job.phase,
        "worker": job.worker,
        "cancel_requested": job.cancel_requested,
        "base_checkpoint_id": None if job.base_checkpoint_id is None else show("ckpt", job.base_checkpoint_id),
        "result_checkpoint_id": None if job.result_checkpoint_id is None else show("ckpt", job.result_checkpoint_id),
        "verdict": job.verdict,
        "fault": job.fault,
        "error": job.error,
        "diagnosis": job.diagnosis,
        "metrics": job.metrics,
        **{name: None if (at := getattr(job, name)) is None else at.isoformat() for name in times},
    }


def event_json(event: JobEvent) -> dict[str, Any]:
    """Write one line of a diary."""
    return {
        "id": event.id,
        "object": "job.event",
        "kind": event.kind,
        "level": event.level,
        "message": event.message,
        "data": event.data,
        "created_at": event.created_at.isoformat(),
    }
