"""The watchdog of a running job: a heartbeat, the operator's word, and the end of a phase that never ends.

Threads of their own, because the thread that learns may be the one that hangs, and one for each duty, because a
heartbeat can hang in the database too. What a heartbeat writes and where an overrun is reported are the caller's.
Leaves out who starts the process again: the supervisor (`lepo up`, compose).
"""

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from app.errors import Cancelled, Fenced, Unavailable
from worker.faults import Stopped

EXIT_CODE: Final = 75  # EX_TEMPFAIL: start me again
_LAST_WORDS_S: Final = 15.0  # how long the report of an overrun may take before the process ends without it

log = logging.getLogger(__name__)


class Watchdog:
    """Watches one job; use as a context manager, and name each phase by `enter`.

    Args:
        beat: writes the heartbeat, called off-thread; returns why the operator wants the job to end, if so; raises
            Fenced when the job is no longer ours. Unavailable is taken as a missed beat.
        report: called off-thread with the phase and what the learning thread was doing when it overran.
        limit_s: seconds one phase may take.
        stopping: set when this process is asked to end.
        every_s: seconds between two heartbeats.
        leave: ends the process; another one only in tests.

    """

    def __init__(
        self,
        beat: Callable[[], str | None],
        report: Callable[[str, str], None],
        limit_s: float,
        stopping: threading.Event | None = None,
        every_s: float = 1.0,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self._beat, self._report, self._limit_s, self._every_s, self._leave = beat, report, limit_s, every_s, leave
        self._stopping = stopping or threading.Event()
        self._watched = threading.get_ident()
        self._phase = ""
        self._deadline = time.monotonic() + limit_s
        self._cancelled: str | None = None
        self._fenced: Fenced | None = None
        self._over = threading.Event()
        self._pulse = threading.Thread(target=self._beats, name="lepo-pulse", daemon=True)
        self._guard = threading.Thread(target=self._guards, name="lepo-guard", daemon=True)

    def __enter__(self) -> Self:
        self._pulse.start()
        self._guard.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._guard.join()
        self._pulse.join()

    def enter(self, phase: str) -> None:
        """Begin a phase; its deadline runs from now."""
        self._phase, self._deadline = phase, time.monotonic() + self._limit_s

    def check(self) -> None:
        """Ask whether to go on; cheap, made to be called between micro-batches.

        Raises:
            Cancelled: the operator asked to stop.
            Fenced: the job is another worker's by now.
            Stopped: this process is to end.

        """
        if self._fenced is not None:
            raise self._fenced
        if self._stopping.is_set():
            raise Stopped(f"The worker was stopped during {self._phase or 'its start'}.")
        if self._cancelled is not None:
            raise Cancelled(f"{self._cancelled} (during {self._phase or 'its start'})")

    def asked_to_end(self) -> bool:
        """Whether `check` would raise."""
        return self._fenced is not None or self._cancelled is not None or self._stopping.is_set()

    def _beats(self) -> None:
        while not self._over.wait(self._every_s):
            try:
                self._cancelled = self._beat() or self._cancelled
            except Fenced as error:
                self._fenced = error
                return
            except Unavailable as error:
                log.warning("heartbeat missed: %s", error)

    def _guards(self) -> None:
        while not self._over.wait(min(self._every_s, max(0.0, self._deadline - time.monotonic()))):
            if time.monotonic() >= self._deadline:
                self._end()
                return

    def _end(self) -> None:
        """Report the overrun and end the process: a hung thread cannot be ended by itself."""
        doing = "".join(traceback.format_stack(sys._current_frames().get(self._watched)))
        log.critical("phase %s took longer than %.0f s; this process ends\n%s", self._phase, self._limit_s, doing)
        last = threading.Timer(_LAST_WORDS_S, self._leave, args=(EXIT_CODE,))
        last.daemon = True
        last.start()
        try:
            self._report(self._phase, doing)
        finally:
            last.cancel()
            self._leave(EXIT_CODE)
