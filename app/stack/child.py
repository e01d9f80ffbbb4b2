"""What the supervisor must know of a process before it starts it.

Leaves out the process itself (`app.stack.supervisor`).
"""

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Child:
    """A process to keep running.

    Example: `Child("redis", ("redis-server", "--port", "0"), ready=lambda: socket_path.exists())`.
    """

    name: str  # names its log and its lock; letters and dashes
    argv: tuple[str, ...]  # program and arguments
    env: Mapping[str, str] = field(default_factory=dict)  # added to the supervisor's environment
    cwd: Path | None = None  # working directory; None: the supervisor's
    ready: Callable[[], bool] | None = None  # asked until true; None: ready once started
    ready_seconds: float = 60.0  # how long `ready` may say no before starting counts as failed
    stop_signal: signal.Signals = signal.SIGTERM  # asks for an orderly end
    stop_seconds: float = 20.0  # patience after `stop_signal`, then SIGKILL
    orphan_signal: signal.Signals = signal.SIGKILL  # what it receives when the supervisor dies (Linux)
    user_id: int | None = None  # run as this user; None: as the supervisor
