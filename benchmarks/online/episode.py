"""An update that is bad for whoever asks and passes the gate, and what became of it.

The gate's held-out grader looks at the form of an answer alone, as one does whom nobody has reviewed; live users judge
its substance. After some good updates every grade says the opposite for a while: until an update has begun with grades
of that time. From then on grades are true again and this module only watches: what takes the bad policy back is the
service. Good policies are promoted by an operator, to save the time of their trials. Leaves out exams
(`benchmarks.online.trial`).
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import httpx
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.store.checkpoints import by_version
from app.store.connect import Store
from app.store.tables import Checkpoint, Claim, Interaction, Transition
from benchmarks.online.crowd import Crowd

GOOD_UPDATES: Final = 3  # promoted before the poison
MADE_S: Final = 120.0  # most time for an update to begin, or to come out
TRIAL_S: Final = 300.0  # most time that the bad policy is watched
LOOK_S: Final = 0.2
MACHINE: Final = frozenset({"trial", "watch"})  # actors of what the service does by itself after the gate


class NothingBad(Exception):
    """The run has shown nothing: no update of poisoned grades got past the gate."""


@dataclass(frozen=True, slots=True)
class Episode:
    """What the watcher knows that the database does not."""

    version: int  # of the bad policy
    poisoned_share: float  # of the answers it was made from, graded in the time of poison


async def play(crowd: Crowd, admin: httpx.AsyncClient, store: Store, tell: Callable[[str], None]) -> Episode:
    """Let users ask through good days, poison and its end; the doors are closed after that.

    Raises:
        NothingBad: the poisoned update was refused, or never came.

    """
    crowd.doors.set()
    last_good = await _next_job(admin, "", promoted=GOOD_UPDATES)
    since = datetime.now(UTC)
    crowd.inverted = True
    tell("every grade says the opposite from now on")
    await _next_job(admin, last_good, promoted=0)
    crowd.inverted = False
    tell("an update has begun with such grades; they are true again")
    version = await _on_trial(admin)
    with store.session() as session:
        share = poisoned_share(session, version, since)
    tell(f"version {version} is in canary, {share:.0%} of it poison")
    await _taken_back(admin, version)
    crowd.doors.clear()
    return Episode(version, share)


async def _next_job(admin: httpx.AsyncClient, before: str, *, promoted: int) -> str:
    """Promote what is on trial as it comes, and wait for another job than `before` after so many; returns its id."""
    done, deadline = 0, time.monotonic() + MADE_S * (1 + promoted)
    while time.monotonic() < deadline:
        overview = (await admin.get("/v1/admin/overview")).json()
        job = overview["current_job"]
        if done >= promoted and job is not None and job["id"] != before:
            return str(job["id"])
        for version in overview["undecided"]:
            wish = {"reason": "its form is right, and there is no time for a trial"}
            promotion = await admin.post(f"/v1/admin/checkpoints/{version}/promote", json=wish)
            done += promotion.raise_for_status().status_code == httpx.codes.OK
        await asyncio.sleep(LOOK_S)
    raise NothingBad(f"no update began within {MADE_S:.0f} s")


async def _on_trial(admin: httpx.AsyncClient) -> int:
    """Wait until the update that runs has put its policy into canary."""
    deadline = time.monotonic() + MADE_S
    while time.monotonic() < deadline:
        overview = (await admin.get("/v1/admin/overview")).json()
        for version, state in overview["undecided"].items():
            if state == "canary":
                return int(version)
        if overview["frozen"] is not None:
            raise NothingBad(f"the update was refused: {overview['frozen']}")
        await asyncio.sleep(LOOK_S)
    raise NothingBad(f"no policy came into canary within {MADE_S:.0f} s")


async def _taken_back(admin: httpx.AsyncClient, version: int) -> None:
    """Wait until a policy is no longer on trial, or until the time is up."""
    deadline = time.monotonic() + TRIAL_S
    while time.monotonic() < deadline:
        if str(version) not in (await admin.get("/v1/admin/overview")).json()["undecided"]:
            return
        await asyncio.sleep(LOOK_S)


def poisoned_share(session: Session, version: int, since: datetime) -> float:
    """Share of the answers behind a policy on trial that were graded from a moment on."""
    poisoned = func.count().filter(Interaction.graded_at >= since)
    query = (
        select(poisoned, func.count())
        .select_from(Claim)
        .join(Interaction, Interaction.id == Claim.interaction_id)
        .where(Claim.job_id == by_version(session, version).job_id, Claim.outcome == "claimed")
    )
    found, every = session.execute(query).one()
    return float(found) / every if every else 0.0


def read_row(session: Session, episode: Episode) -> dict[str, Any]:
    """Read what became of the bad policy: whom it answered, and who took it back, when and why."""
    bad = by_version(session, episode.version)
    served = session.get(Checkpoint, bad.parent_id)
    moves = session.scalars(
        select(Transition).where(Transition.checkpoint_id == bad.id).order_by(Transition.entry)
    ).all()
    began = next(move for move in moves if move.to_state == "canary")
    left = next((move for move in moves if move.from_state == "canary"), None)
    query = select(func.min(Interaction.created_at), func.max(Interaction.created_at), func.count())
    first, last, answered = session.execute(query.where(Interaction.checkpoint_id == bad.id)).one()
    ended = [at for at in (last, None if left is None else left.created_at) if at is not None]
    until = max(ended, default=None)
    every = session.scalars(select(func.count()).where(Interaction.created_at.between(first, until))).one()
    return {
        "version": episode.version,
        "learned_from": None if served is None else served.version,
        "poisoned_share": episode.poisoned_share,
        "gate": began.figures,
        "requests_of_it": answered,
        "requests_meanwhile": every,
        "served_share": answered / every if every else 0.0,
        "rolled_back": left is not None and left.to_state == "rolled_back" and left.actor in MACHINE,
        "by": None if left is None else left.actor,
        "why": None if left is None else left.reason,
        "seconds": None if left is None or first is None else (left.created_at - first).total_seconds(),
        "reward": None if left is None else left.figures.get("reward"),
        "reward_beside": None if left is None else left.figures.get("reward_against"),
        "trial": {} if left is None else left.figures,
    }
