"""`GET /console`: is it improving, what is it doing now, and what to do about it.

Leaves out the figures (`app.store.overview`, `app.store.console_overview`) and the sentences (`verdict`, `now`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from fastapi import Depends, Request
from markupsafe import Markup
from sqlalchemy.orm import Session
from starlette.responses import RedirectResponse, Response

from app.api.console.drawing.chart import SHAPES, Mark, Point, line_chart
from app.api.console.pages.now import Now, read_now
from app.api.console.pages.rendering import landing, page
from app.api.console.pages.routes import pages
from app.api.console.pages.verdict import Verdict, verdict
from app.api.console.pages.words import percent
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.server import ServerDep
from app.settings import Settings
from app.store import policy_life
from app.store.console_overview import (
    Moved,
    Rewards,
    moves,
    promoted_at,
    rewards_by_version,
    rewards_over_time,
)
from app.store.overview import Overview, overview
from training.statistics.intervals import wilson

router = pages()

By = Literal["version", "time"]
DAYS_FROM_S: Final = 2 * 24 * 3600  # a span of time from which days are written on its axis
MINUTES_FROM_S: Final = 15 * 60  # from which no seconds are


@dataclass(frozen=True, slots=True)
class Home:
    """All that the overview shows."""

    figures: Overview
    verdict: Verdict
    now: Now
    heldout: Markup | None  # charts; None: there is nothing to draw yet
    live: Markup | None
    marks: list[Moved]  # newest first


@router.get("/console")
async def home(request: Request, server: ServerDep, by: By = "version") -> Response:
    """Show the overview to who administers the service, and others the first page that is theirs."""
    first = landing(request.state.caller)
    if first != "/console":
        return RedirectResponse(first, status_code=303)
    settings = server.settings
    found = await server.control.run(lambda session: read_home(session, settings, by))
    return page(request, "overview.html", home=found, by=by, engine=server.engine.stats(), settings=settings)


@router.get("/console/now")
async def now(request: Request, server: ServerDep, _caller: Annotated[Caller, Depends(require("admin"))]) -> Response:
    """Show the part of the overview that changes by the second."""
    settings = server.settings
    found = await server.control.run(lambda session: read_now(session, settings))
    return page(request, "_now.html", now_doing=found, engine=server.engine.stats())


def read_home(session: Session, settings: Settings, by: By) -> Home:
    """Read the overview in one transaction."""
    figures = overview(session)
    serving = policy_life.serving(session)
    by_version = rewards_by_version(session)
    marks = moves(session)
    live = by_version if by == "version" else rewards_over_time(session)
    made = promoted_at(session) if by == "time" else {}
    gate = None if serving is None else serving.metrics.get("gate")
    return Home(
        figures=figures,
        verdict=verdict(figures.history, by_version, figures.serving_version, gate),
        now=read_now(session, settings),
        heldout=heldout_chart(figures, marks, by, made),
        live=live_chart(live, marks, by),
        marks=[one for one in reversed(marks) if one.event in SHAPES][:12],
    )


def heldout_chart(figures: Overview, marks: list[Moved], by: By, made: dict[int, datetime]) -> Markup | None:
    """Draw the held-out answers of each version; None before anything was asked."""
    points = []
    for one in figures.history:
        low, high = wilson(one.correct, one.total)
        words = f"version {one.version}: {percent(one.accuracy)} of {one.total} ({percent(low)} to {percent(high)})"
        x = float(one.version) if by == "version" else made.get(one.version, one.at).timestamp()
        points.append(Point(x, one.accuracy, low, high, words))
    label = f"Held-out questions answered right, by {by}, with 95% intervals"
    return drawn(sorted(points, key=lambda one: one.x), marks, by, label)


def live_chart(live: list[Rewards], marks: list[Moved], by: By) -> Markup | None:
    """Draw the rewards of live answers; None before anything was graded."""
    points = []
    for one in live:
        what = f"version {one.at:.0f}" if by == "version" else f"{moment(one.at):%d %b %H:%M}"
        words = f"{what}: {one.mean:.3f} over {one.answers} graded answers ({one.low:.3f} to {one.high:.3f})"
        points.append(Point(one.at, one.mean, one.low, one.high, words))
    return drawn(points, marks, by, f"Mean reward of live answers, by {by}, with 95% intervals")


def drawn(points: list[Point], marks: list[Moved], by: By, label: str) -> Markup | None:
    """Draw a chart on the axis that was asked for."""
    if not points:
        return None
    inside = all(0 <= one.y <= 1 for one in points)
    axis: dict[str, Any] = {"y_range": (0.0, 1.0) if inside else None, "y_words": share if inside else plain}
    x_words = version_words if by == "version" else time_words(points[-1].x - points[0].x)
    shown = [Mark(place(one, by), one.event, mark_words(one)) for one in marks if one.event in SHAPES]
    return line_chart(points, shown, label=label, x_words=x_words, whole=by == "version", **axis)


def place(one: Moved, by: By) -> float:
    """Say where on an axis a move stands."""
    return float(one.version) if by == "version" else one.at.timestamp()


def mark_words(one: Moved) -> str:
    """Say what happened."""
    return f"{one.event.replace('_', ' ')} of version {one.version} by {one.actor}, {one.at:%d %b %H:%M}: {one.reason}"


def share(value: float) -> str:
    """Write a share on an axis."""
    return f"{value:.0%}"


def plain(value: float) -> str:
    """Write a reward on an axis."""
    return f"{value:g}"


def version_words(value: float) -> str:
    """Write a version on an axis."""
    return f"v{value:.0f}"


def time_words(span_s: float) -> Callable[[float], str]:
    """Choose how times on an axis are written, by how much time it shows."""
    form = "%d %b" if span_s > DAYS_FROM_S else "%H:%M" if span_s > MINUTES_FROM_S else "%H:%M:%S"
    return lambda value: f"{moment(value):{form}}"


def moment(seconds: float) -> datetime:
    """Read Unix seconds."""
    return datetime.fromtimestamp(seconds, UTC)
