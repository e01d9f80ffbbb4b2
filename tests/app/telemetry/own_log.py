"""This process's log, for as long as a block lasts."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from app.telemetry.log import OURS, Format, set_up


@contextmanager
def own_log(form: Format) -> Iterator[io.StringIO]:
    """Set it up in a form, and as it was again; gives what is written."""
    root, levels = logging.getLogger(), {name: logging.getLogger(name).level for name in OURS}
    handlers, level = list(root.handlers), root.level
    root.handlers.clear()  # or setting up would close what pytest listens by
    stream = io.StringIO()
    set_up(form, stream)
    try:
        yield stream
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = handlers
        root.setLevel(level)
        for name, before in levels.items():
            logging.getLogger(name).setLevel(before)
