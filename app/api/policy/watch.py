"""Keeping up with the policies: what serves by its row is what this process serves, and what is on trial is held ready.

Looks every second and whenever the bell rings, also while weights are being read: a wish that changed meanwhile takes
the place of the one under way. Swaps in the background while answers go on; writes a row for every attempt. A version
that failed is tried again after a pause that doubles; until it can be held, everybody is served by what serves. While
the database is away the old policy goes on serving, and rows of swaps wait to be written. Leaves out the swap itself
(`app.engine.swap`) and who is served by a policy on trial (`app.api.answering.trial_routing`).
"""

import asyncio
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.api.answering.trial_routing import OnTrial
from app.api.policy.suspect import ENOUGH, turn_away
from app.api.server import Server
from app.engine.request import EngineClosed
from app.engine.stage import StageFailed
from app.engine.swap import Superseded, SwapReport
from app.errors import LepoError
from app.settings import Settings
from app.store import policy_life
from app.store.swaps import record_swap
from app.store.tables import Checkpoint, Swap

LOOK_S: Final = 1.0
FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 300.0
MOST_UNWRITTEN: Final = 1000

log = logging.getLogger("lepo.api")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the database wants of this process."""

    serving: Checkpoint | None
    trial: Checkpoint | None  # to be held ready
    urgent: bool  # what this process serves was rolled back


class PolicyWatch:
    """One process's watch over the policies it serves and holds."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._replica = f"{socket.gethostname()}:{os.getpid()}"
        self._unwritten: deque[Swap] = deque(maxlen=MOST_UNWRITTEN)
        self._failures: dict[int, tuple[int, float]] = {}  # version -> (failures, when to try again)
        self._serving: tuple[int, asyncio.Task[None]] | None = None  # version that is being taken into service
        self._holding: tuple[int, asyncio.Task[None]] | None = None  # version that is being made ready

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            self._server.policy_bell.clear()
            try:
                await self.look()
            except LepoError as error:
                log.warning("the policy watch cannot read the store, serving goes on: %s", error.message)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._server.policy_bell.wait(), LOOK_S)

    async def look(self) -> None:
        """Look once, and begin what has to be done to serve and hold what is wanted.

        Raises:
            LepoError: the store cannot be read or written.

        """
        settings, version = self._server.settings, self._server.engine.version
        resident = self._server.engine.stats().by_version
        if any(one.not_finite >= ENOUGH for one in resident):
            await self._server.control.run(lambda session: turn_away(session, resident))
        wishes = await self._server.control.run(lambda session: wishes_of(session, settings, version))
        if wishes.serving is not None:
            self._serve(wishes.serving, urgent=wishes.urgent)
        self._hold(wishes.trial)
        await self._write()

    def _serve(self, wanted: Checkpoint, *, urgent: bool) -> None:
        """Begin to serve a version, unless it is served or being swapped in already."""
        under_way = self._serving is not None and not self._serving[1].done()
        coming = self._serving[0] if self._serving is not None and under_way else self._server.engine.version
        if wanted.version != coming and self._due(wanted.version):
            work = self._swap(Path(wanted.path), wanted.version, urgent=urgent)
            self._serving = (wanted.version, self._begin(work))

    def _hold(self, wanted: Checkpoint | None) -> None:
        """Begin to hold a policy on trial, and let go of one that is on trial no more."""
        trial, engine = self._server.trial, self._server.engine
        if trial is not None and (wanted is None or trial.checkpoint_id != wanted.id or trial.state != wanted.state):
            self._server.trial = trial = None
        if self._holding is not None and (wanted is None or self._holding[0] != wanted.version):
            engine.release(self._holding[0])
            self._holding = None
        if wanted is None:
            return
        if engine.candidate == wanted.version:
            if trial is None:
                log.info("policy version %d is ready, in %s", wanted.version, wanted.state)
            self._server.trial = on_trial(wanted)
        elif (self._holding is None or self._holding[1].done()) and self._due(wanted.version):
            self._server.trial = None
            self._holding = (wanted.version, self._begin(self._make_ready(wanted)))

    def _begin(self, work: Awaitable[None]) -> asyncio.Task[None]:
        """Do something beside the looks; the next look comes as soon as it is done."""
        task = asyncio.ensure_future(work)
        task.add_done_callback(lambda _: self._server.policy_bell.set())
        return task

    async def _swap(self, directory: Path, version: int, *, urgent: bool) -> None:
        """Try to take a version into service, and note what came of it."""
        before = self._server.engine.version
        try:
            ordered = await asyncio.to_thread(self._server.engine.swap, directory, version, urgent=urgent)
            report = await asyncio.wrap_future(ordered)
        except (EngineClosed, Superseded):
            return
        except StageFailed as error:
            self._failed(version, before, str(error))
        else:
            self._served(report)

    async def _make_ready(self, wanted: Checkpoint) -> None:
        """Try to hold a version ready; while that does not work, what serves goes on for everybody."""
        try:
            await asyncio.wrap_future(
                await asyncio.to_thread(self._server.engine.hold, Path(wanted.path), wanted.version)
            )
        except (EngineClosed, Superseded):
            return
        except StageFailed as error:
            self._failed(wanted.version, self._server.engine.version, str(error))
        else:
            self._failures.pop(wanted.version, None)

    def _served(self, report: SwapReport) -> None:
        self._failures.pop(report.to_version, None)
        self._server.metrics.swapped(report)
        log.info("serving policy version %d, after %d", report.to_version, report.from_version)
        self._unwritten.append(
            Swap(
                replica=self._replica,
                from_version=report.from_version,
                to_version=report.to_version,
                status="served",
                staged_ms=report.staged_s * 1000,
                pause_ms=report.pause_s * 1000,
                pause_steps=report.pause_steps,
                fingerprint=report.fingerprint,
            )
        )

    def _failed(self, version: int, before: int, why: str) -> None:
        failures = self._failures.get(version, (0, 0.0))[0] + 1
        pause = min(FIRST_PAUSE_S * 2 ** (failures - 1), LONGEST_PAUSE_S)
        self._failures[version] = (failures, time.monotonic() + pause)
        log.error(
            "version %d cannot be served (%s); version %d goes on; next try in %.0f s", version, why, before, pause
        )
        self._unwritten.append(
            Swap(replica=self._replica, from_version=before, to_version=version, status="failed", error=why)
        )

    def _due(self, version: int) -> bool:
        """Whether a version may be tried now."""
        return time.monotonic() >= self._failures.get(version, (0, 0.0))[1]

    async def _write(self) -> None:
        """Write the rows of swaps; those that cannot be written wait for the next look."""
        while self._unwritten:
            row = self._unwritten[0]
            await self._server.control.run(lambda session, row=row: record_swap(session, row))  # type: ignore[misc]
            self._unwritten.popleft()


def wishes_of(session: Session, settings: Settings, version: int) -> Wishes:
    """Read what is wanted, in one transaction.

    Args:
        session: a transaction.
        settings: whether this process takes part in trials at all.
        version: what it serves now.

    """
    trial = policy_life.in_state(session, "canary") if settings.canary_share else None
    if trial is None and settings.shadow_share:
        trial = policy_life.in_state(session, "shadow")
    state = session.scalar(select(Checkpoint.state).where(Checkpoint.version == version))
    return Wishes(policy_life.serving(session), trial, urgent=state == "rolled_back")


def on_trial(row: Checkpoint) -> OnTrial:
    """Say of a policy in shadow or canary what routing needs to know."""
    return OnTrial(row.id, row.version, "canary" if row.state == "canary" else "shadow")
