"""Keeping up with the policy: the policy that serves by its row is what this process serves, soon after it changes.

Looks every second and whenever the bell rings; swaps in the background while answers go on; writes a row for every
attempt. A version that failed is tried again after a pause that doubles. While the database is away the old policy goes
on serving, and rows of swaps wait to be written. Leaves out the swap itself (`app.engine.swap`).
"""

import asyncio
import logging
import os
import socket
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

from app.api.server import Server
from app.engine.request import EngineClosed
from app.engine.stage import StageFailed
from app.engine.swap import Superseded, SwapReport
from app.errors import LepoError
from app.store.policy_life import serving
from app.store.swaps import record_swap
from app.store.tables import Swap

LOOK_S: Final = 1.0
FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 300.0
MOST_UNWRITTEN: Final = 1000

log = logging.getLogger("lepo.api")


class PolicyWatch:
    """One process's watch over the served policy."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._replica = f"{socket.gethostname()}:{os.getpid()}"
        self._unwritten: deque[Swap] = deque(maxlen=MOST_UNWRITTEN)
        self._failures: dict[int, tuple[int, float]] = {}  # version -> (failures, when to try again)

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
        """Look once, and swap if the served policy is another than the one wanted.

        Raises:
            LepoError: the store cannot be read or written.

        """
        wanted = await self._server.control.run(serving)
        if wanted is not None and wanted.version != self._server.engine.version and self._due(wanted.version):
            await self._swap(Path(wanted.path), wanted.version)
        await self._write()

    async def _swap(self, directory: Path, version: int) -> None:
        """Try to take a version into service, and note what came of it."""
        before = self._server.engine.version
        try:
            report = await asyncio.wrap_future(self._server.engine.swap(directory, version))
        except (EngineClosed, Superseded):
            return
        except StageFailed as error:
            self._failed(version, before, str(error))
        else:
            self._served(report)

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
