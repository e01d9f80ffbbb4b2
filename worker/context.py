"""What one worker process holds: its settings, its way into Postgres, the resident policy, the wish that it ends.

Leaves out what is done with it (`worker.learn`, `worker.grade`).
"""

import os
import socket
import threading
from dataclasses import dataclass, field

from app.settings import Settings
from app.store.connect import Store
from worker.alarm import Alarm, silent
from worker.resident import Resident


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """Made once per process, by the command that becomes the worker."""

    settings: Settings
    store: Store  # three connections or more: the job's, the heartbeat's, the report of an overrun
    redis_url: str  # `redis://...` or `redis+socket://...`, for the hint after a promotion
    resident: Resident
    stopping: threading.Event = field(default_factory=threading.Event)  # set when the process was asked to end
    alarm: Alarm = silent  # ends this process where it hangs and cannot say so
    name: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")  # stands on its jobs
