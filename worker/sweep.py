"""A sweep: rows whose time is over, then checkpoint directories and logs that need not stay.

Any worker may do it, and two at once harm nobody. Files are swept by a worker that sees them: one without the
directory of checkpoints leaves them to others. Leaves out the rules (`app.store.retention`, `worker.retention`).
"""

import logging
import time
from pathlib import Path
from typing import Final

from app.settings import Settings
from app.store.connect import Store
from app.store.retention import sweep as sweep_rows
from worker.context import Context
from worker.retention import begin_anew, make_room, prune

CHECKPOINTS: Final = "checkpoints"  # directory under LEPO_VAR_DIR

log = logging.getLogger(__name__)


def sweep(context: Context) -> dict[str, int]:
    """Sweep for no longer than the time between two looks for work; the rest goes next time. Returns what went."""
    until = time.monotonic() + context.settings.learn_interval
    counts = sweep_rows(
        context.store, context.settings, until=lambda: context.stopping.is_set() or time.monotonic() > until
    )
    counts |= sweep_files(context.store, context.settings)
    if counts:
        log.info("swept: %s", counts)
    return counts


def sweep_files(store: Store, settings: Settings) -> dict[str, int]:
    """Remove checkpoints beyond their number and quota, and begin grown logs anew; returns what went."""
    parent = settings.var_dir / CHECKPOINTS
    gone = len([*prune(store, settings, parent), *make_room(store, settings, parent)]) if parent.is_dir() else 0
    logs: list[Path] = begin_anew(settings.var_dir / "logs", settings.keep_log_bytes)
    return {name: count for name, count in (("checkpoints", gone), ("logs", len(logs))) if count}
