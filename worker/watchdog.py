"""The watchdog of a running job: a heartbeat, the operator's word, and the end of a job that gets nowhere.

Threads of their own, because the thread that learns may be the one that hangs, and one for each duty, because a
heartbeat can hang in the database too. Each `enter`, `check` and `asked_to_end` of the learning thread is a step; so is
CPU time, for a single operation on a large model may be long. A job that makes no step for `stall_s` has no heartbeat
any more, and the process ends; a phase that makes steps for ever ends at `limit_s`.

The alarm is the watchdog's last resort, for a process without memory may have no thread left to watch it: under Python
a thread whose first allocation fails is gone without a word, and whoever started it waits for ever
(python/cpython#140746). The kernel rings it a little after the bounds above, C code that allocates nothing writes to
stderr where every thread stands, and SIGALRM ends the process. There is one per process. Linux keeps the first process
of a container alive whatever rings, so that must be an init (`init: true` in compose).

What a heartbeat writes and where an overrun is reported are the caller's. Leaves out who starts the process again: the
supervisor (`lepo up`, compose).
"""

import faulthandler
import logging
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from app.errors import Cancelled, Fenced, Unavailable
from worker.faults import Stopped

EXIT_CODE: Final = 75  # EX_TEMPFAIL: start me again
START_S: Final = 15.0  # within which the watchdog's own threads must run
LAST_WORDS_S: Final = 15.0  # how long the report of an overrun may take before the process ends without it
GRACE_S: Final = 15.0  # how much later the alarm rings than the guard's bounds
BUSY: Final = 0.1  # of a core: who uses as much CPU time as this over `stall_s` works

Alarm = Callable[[float], object]  # lets it ring in so many seconds, and not before; 0: not at all

log = logging.getLogger(__name__)


def arm() -> Alarm:
    """Make SIGALRM end this process, and give what sets the alarm; to be called once, in the main thread."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    faulthandler.register(signal.SIGALRM, all_threads=True, chain=True)
    return ring_in


def ring_in(seconds: float) -> None:
    """Set the alarm anew; a call into the kernel and no more, from any thread."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def silent(seconds: float) -> None:
    """Stand in for the alarm in a process that is not ours to end."""


class Watchdog:
    """Watches one job; use as a context manager, and name each phase by `enter`.

    Args:
        beat: writes the heartbeat, called off-thread; returns why the operator wants the job to end, if so; raises
            Fenced when the job is no longer ours. Unavailable is taken as a missed beat.
        report: called off-thread with the phase, what it did wrong, and what the learning thread was doing then.
        limit_s: seconds one phase may take.
        stall_s: seconds without a step after which nothing is to be expected any more.
        stopping: set when this process is asked to end.
        every_s: seconds between two heartbeats.
        alarm: ends the process when all else fails.
        leave: ends the process; another one only in tests.

    """

    def __init__(
        self,
        beat: Callable[[], str | None],
        report: Callable[[str, str, str], None],
        limit_s: float,
        stall_s: float = math.inf,
        stopping: threading.Event | None = None,
        every_s: float = 1.0,
        alarm: Alarm = silent,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self._beat, self._report, self._alarm, self._leave = beat, report, alarm, leave
        self._limit_s, self._stall_s, self._every_s = limit_s, stall_s, every_s
        self._stopping = stopping or threading.Event()
        self._watched = threading.get_ident()
        self._phase = ""
        self._deadline = time.monotonic() + limit_s
        self._stalls_at = time.monotonic() + stall_s
        self._cpu_s = time.process_time()  # at the last step
        self._ending = False
        self._cancelled: str | None = None
        self._fenced: Fenced | None = None
        self._over = threading.Event()
        self._pulse = threading.Thread(target=self._beats, name="lepo-pulse", daemon=True)
        self._guard = threading.Thread(target=self._guards, name="lepo-guard", daemon=True)

    def __enter__(self) -> Self:
        self._alarm(START_S)  # a thread that cannot begin leaves us waiting for it
        with ExitStack() as undone:
            undone.callback(self._alarm, 0)
            undone.callback(self._over.set)  # nobody says that a job is alive which did not begin
            self._pulse.start()
            self._guard.start()
            undone.pop_all()
        self.step()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._guard.join()
        self._pulse.join()
        self._alarm(0)

    def enter(self, phase: str) -> None:
        """Begin a phase; its deadline runs from now."""
        self._phase, self._deadline = phase, time.monotonic() + self._limit_s
        self.step()

    def step(self) -> None:
        """Note that the job gets somewhere."""
        if self._ending:  # the report is under way; only its own time counts now
            return
        now = time.monotonic()
        self._stalls_at, self._cpu_s = now + self._stall_s, time.process_time()
        self._alarm(max(0.0, self._due() - now) + LAST_WORDS_S + GRACE_S)

    def check(self) -> None:
        """Ask whether to go on, which is a step; cheap, made to be called between micro-batches.

        Raises:
            Cancelled: the operator asked to stop.
            Fenced: the job is another worker's by now.
            Stopped: this process is to end.

        """
        self.step()
        if self._fenced is not None:
            raise self._fenced
        if self._stopping.is_set():
            raise Stopped(f"The worker was stopped during {self._phase or 'its start'}.")
        if self._cancelled is not None:
            raise Cancelled(f"{self._cancelled} (during {self._phase or 'its start'})")

    def asked_to_end(self) -> bool:
        """Whether `check` would raise; asking is a step."""
        self.step()
        return self._fenced is not None or self._cancelled is not None or self._stopping.is_set()

    def _due(self) -> float:
        """Say when the guard has to end the process, as things stand."""
        return min(self._deadline, self._stalls_at)

    def _beats(self) -> None:
        while self._fenced is None and not self._over.wait(self._every_s):
            if time.monotonic() < self._stalls_at:
                with ExitStack() as tried:
                    tried.push(self._missed)
                    self._cancelled = self._beat() or self._cancelled

    def _missed(self, _kind: object, error: BaseException | None, _at: object) -> bool:
        """Log a heartbeat that failed, whatever it failed of: the next one may get through."""
        if isinstance(error, Fenced):
            self._fenced = error
        elif isinstance(error, Unavailable):
            log.warning("heartbeat missed: %s", error)
        elif error is not None:
            log.error("heartbeat missed", exc_info=error)
        return isinstance(error, Exception)

    def _guards(self) -> None:
        while not self._over.wait(min(self._every_s, max(0.0, self._due() - time.monotonic()))):
            if time.process_time() - self._cpu_s >= BUSY * self._stall_s:
                self.step()
            if time.monotonic() >= self._due():
                self._end()
                return

    def _end(self) -> None:
        """Report the overrun and end the process: a hung thread cannot be ended by itself."""
        self._ending = True
        self._alarm(LAST_WORDS_S)
        try:
            wrong = self._wrong()
            doing = "".join(traceback.format_stack(sys._current_frames().get(self._watched)))
            log.critical("phase %s %s; this process ends\n%s", self._phase, wrong, doing)
            self._report(self._phase, wrong, doing)
        finally:
            self._leave(EXIT_CODE)

    def _wrong(self) -> str:
        """Say which bound was passed."""
        if time.monotonic() >= self._deadline:
            return f"took longer than the {self._limit_s:g} s that LEPO_PHASE_DEADLINE allows"
        return f"made no progress for the {self._stall_s:g} s that LEPO_STALL_DEADLINE allows"
