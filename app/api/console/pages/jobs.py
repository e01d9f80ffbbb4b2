"""Updates of the policy: all with their curves, one as it happens with its samples; asked for, cancelled, retried.

For admin keys of the service. Leaves out the queries (`app.store.jobs`, `app.store.console_jobs`).
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import Depends, Request
from markupsafe import Markup
from sqlalchemy.orm import Session
from starlette.responses import Response, StreamingResponse

from app.api.console.drawing.chart import Point, line_chart
from app.api.console.pages.acting import act, back
from app.api.console.pages.forms import ProvenForm
from app.api.console.pages.now import PHASES
from app.api.console.pages.policies import dig
from app.api.console.pages.rendering import SAFE, fragment, page
from app.api.console.pages.routes import pages
from app.api.console.pages.words import number
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.http.paths import known
from app.api.server import Server, ServerDep
from app.identifiers import show
from app.store import jobs
from app.store.checkpoints import get_checkpoint
from app.store.console_jobs import FoundEvent, Sample, find_events, measured_jobs, outcomes, samples
from app.store.events import list_events
from app.store.tables import Job, JobEvent

router = pages()

MayRule = Annotated[Caller, Depends(require("admin"))]
Level = Literal["", "info", "warning", "error"]
Which = Literal["all", "learned", "skipped"]

CURVES: Final = (  # name, path into a job's metrics
    ("Mean reward of what was learned from", ("reward_mean",)),
    ("KL from the parent, nats a step", ("update", "kl")),
    ("Entropy of tokens, nats", ("update", "objective", "token_entropy")),
    ("Gradient norm", ("update", "gradient_norm")),
)
LOOK_S: Final = 1.0  # between two looks at an update that is followed
LONGEST_LOOKS: Final = 1800
MOST_EVENTS: Final = 300


@dataclass(frozen=True, slots=True)
class Live:
    """The part of an update's page that changes while it runs."""

    job: Job
    events: list[JobEvent]  # in order
    phases: list[tuple[str, str, float | None]]  # name, what it is, seconds; None: it goes on
    base: int | None  # version it began from
    result: int | None  # version it made


@dataclass(frozen=True, slots=True)
class One:
    """An update."""

    live: Live
    samples: list[Sample]
    outcomes: list[tuple[str, str | None, int]]


@router.get("/console/jobs")
async def listing(request: Request, server: ServerDep, _caller: MayRule, q: str = "", level: Level = "") -> Response:
    """Show updates, their curves, and events that were looked for."""

    def look(session: Session) -> tuple[list[Job], list[Job], list[FoundEvent]]:
        found = find_events(session, q, level or None) if q or level else []
        return jobs.list_jobs(session), measured_jobs(session), found

    rows, measured, events = await server.control.run(look)
    return page(request, "jobs.html", jobs=rows, curves=curves(measured), events=events, q=q, level=level)


@router.post("/console/jobs")
async def ask(request: Request, _form: ProvenForm, _caller: MayRule) -> Response:
    """Ask for an update now, however few grades wait."""
    done = await act(request, "POST", "/v1/admin/jobs", {})
    return back("/console/jobs", done.refused or "An update is asked for; a worker takes it at its next look.")


@router.get("/console/jobs/{job_id}")
async def one(request: Request, job_id: str, server: ServerDep, _caller: MayRule, which: Which = "all") -> Response:
    """Show an update."""
    key = known("job", job_id)
    outcome = None if which == "all" else which

    def look(session: Session) -> One:
        return One(read_live(session, key), samples(session, key, outcome), outcomes(session, key))

    found = await server.control.run(look)
    return page(request, "job.html", one=found, live=found.live, which=which)


@router.post("/console/jobs/{job_id}/cancel")
async def cancel(request: Request, job_id: str, _form: ProvenForm, _caller: MayRule) -> Response:
    """Cancel an update."""
    done = await act(request, "POST", f"/v1/admin/jobs/{job_id}/cancel")
    return back(f"/console/jobs/{job_id}", done.refused or "It is asked to end; what it claimed is given back.")


@router.post("/console/jobs/{job_id}/retry")
async def retry(request: Request, job_id: str, server: ServerDep, _form: ProvenForm, _caller: MayRule) -> Response:
    """Ask for another update with the same settings."""
    key = known("job", job_id)
    config = await server.control.run(lambda session: dict(jobs.get_job(session, key).config))
    done = await act(request, "POST", "/v1/admin/jobs", {"config": config})
    if done.refused is not None:
        return back(f"/console/jobs/{job_id}", done.refused)
    return back(f"/console/jobs/{done.body['id']}", "Another update is asked for, with the same settings.")


@router.get("/console/jobs/{job_id}/stream")
async def stream(job_id: str, server: ServerDep, _caller: MayRule) -> Response:
    """Send an update's live part whenever it changes, until the update is over."""
    key = known("job", job_id)
    await server.control.run(lambda session: jobs.get_job(session, key))
    headers = {**SAFE, "X-Accel-Buffering": "no"}
    return StreamingResponse(parts(server, key), media_type="text/event-stream", headers=headers)


async def parts(server: Server, job_id: UUID) -> AsyncIterator[str]:
    """Give the live part as server-sent events."""
    before = ""
    for _ in range(LONGEST_LOOKS):
        found = await server.control.run(lambda session: read_live(session, job_id))
        now = fragment("_job.html", live=found)
        yield f"event: part\ndata: {json.dumps(now)}\n\n" if now != before else ": nothing new\n\n"
        before = now
        if found.job.finished_at is not None:
            break
        await asyncio.sleep(LOOK_S)
    yield "event: end\ndata: {}\n\n"


def read_live(session: Session, job_id: UUID) -> Live:
    """Read what changes while an update runs.

    Raises:
        NotFound: there is no such update.

    """
    job = jobs.get_job(session, job_id)
    session.refresh(job)
    events = list_events(session, job_id, limit=MOST_EVENTS)
    return Live(
        job, events, phases(job), version(session, job.base_checkpoint_id), version(session, job.result_checkpoint_id)
    )


def version(session: Session, checkpoint_id: UUID | None) -> int | None:
    """Read a checkpoint's version."""
    return None if checkpoint_id is None else get_checkpoint(session, checkpoint_id).version


def phases(job: Job) -> list[tuple[str, str, float | None]]:
    """List the phases an update went through, in their order, and the one it is in."""
    seconds: dict[str, Any] = job.metrics.get("seconds", {})
    done = [(name, PHASES.get(name, name), seconds[name]) for name in (*PHASES, *seconds) if name in seconds]
    unique = list(dict.fromkeys(done))
    if job.status == "running" and job.phase is not None:
        unique = [one for one in unique if one[0] != job.phase]
        return [*unique, (job.phase, PHASES.get(job.phase, job.phase), None)]
    return unique


def curves(measured: list[Job]) -> list[tuple[str, Markup]]:
    """Draw the figures of one update after another; a figure that nobody measured is left out."""
    drawn = []
    for name, path in CURVES:
        points = []
        for place, job in enumerate(measured, 1):
            value = dig(job.metrics, path)
            if isinstance(value, int | float):
                words = f"update {place} ({show('job', job.id)[:12]}): {number(value)}"
                points.append(Point(float(place), value, value, value, words))
        if len(points) > 1:
            chart = line_chart(points, label=f"{name}, update by update", x_words=whole, y_words=brief, whole=True)
            drawn.append((name, chart))
    return drawn


def whole(value: float) -> str:
    """Write the number of an update."""
    return f"{value:.0f}"


def brief(value: float) -> str:
    """Write a figure on an axis."""
    return f"{value:.3g}"
