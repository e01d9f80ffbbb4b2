"""Updates of the policy, for operators: ask for one, follow it, cancel it.

A job is a row that says `queued`; the worker finds it at its next look. Leaves out the work (`worker`).
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import ValidationError
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse, Response

from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.http.fields import JsonObject, Strict
from app.api.http.once import Outcome, once
from app.api.http.paths import known
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

    config: JsonObject = {}  # noqa: RUF012  pydantic copies defaults; settings that differ from the service's


@router.post("", response_model=None, status_code=201)
async def post_job(body: JobBody, request: Request, server: ServerDep, caller: MayRule) -> Response:
    """Ask for an update."""
    check_config(server.settings, body.config)

    def work(session: Session) -> Outcome:
        job = jobs.request(session, trigger="admin", requested_by=caller.key_id, config=body.config)
        session.refresh(job)
        return 201, job_json(job)

    return await once(server.control, request, caller, work)


@router.get("", response_model=None)
async def list_all(
    server: ServerDep,
    _caller: MayRule,
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"] | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    after: str | None = None,
) -> Response:
    """List jobs, the newest first; continue with the last one's id as `after`."""
    begin = None if after is None else known("job", after)
    found = await server.control.run(
        lambda session: [job_json(job) for job in jobs.list_jobs(session, status=status, limit=limit, after=begin)]
    )
    return JSONResponse({"object": "list", "data": found, "has_more": len(found) == limit})


@router.get("/{job_id}", response_model=None)
async def get_one(job_id: str, server: ServerDep, _caller: MayRule) -> Response:
    """Read one job."""
    key = known("job", job_id)
    return JSONResponse(await server.control.run(lambda session: job_json(jobs.get_job(session, key))))


@router.get("/{job_id}/events", response_model=None)
async def get_events(
    job_id: str,
    server: ServerDep,
    _caller: MayRule,
    after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """Read a job's diary in order; continue with `next_after` as `after`."""
    key = known("job", job_id)

    def diary(session: Session) -> dict[str, Any]:
        jobs.get_job(session, key)
        events = list_events(session, key, after=after, limit=limit)
        last = events[-1].id if events else after
        shown = [event_json(event) for event in events]
        return {"object": "list", "data": shown, "next_after": last, "has_more": len(events) == limit}

    return JSONResponse(await server.control.run(diary))


@router.post("/{job_id}/cancel", response_model=None)
async def cancel(job_id: str, request: Request, server: ServerDep, caller: MayRule) -> Response:
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
