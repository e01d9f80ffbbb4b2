"""The alarm of last resort: it ends a process that gets nowhere, and needs nothing of that process.

A process without memory may have no thread left to watch it: under Python a thread whose first allocation fails is gone
without a word, and whoever started it waits for ever (python/cpython#140746). The kernel rings this alarm, C code that
allocates nothing writes to stderr where every thread stands, and SIGALRM ends the process. There is one per process.
Linux keeps the first process of a container alive whatever rings, so that must be an init (`init: true` in compose).

Leaves out when it is to ring (`worker.watchdog`) and who starts the process again (the supervisor, compose).
"""

import faulthandler
import signal
from collections.abc import Callable

Alarm = Callable[[float], object]  # lets it ring in so many seconds, and not before; 0: not at all


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
