"""The log of a process: our own lines, each with the ids of what it is about, for people or for machines.

As JSON, a line is one object: `time` (UTC), `level`, `logger`, `message`, then whichever ids are known of `request_id`,
`interaction_id`, `session_id`, `job_id`, `policy_version` and the rest that were noted, `trace_id` and `span_id` where
there is a trace, and `exception` with its traceback. Others' loggers are heard from warnings on: what a library tells
of its own doings is nobody's business here. Leaves out where lines go on (`app.stack`, Docker, journald).
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final, Literal, TextIO

Format = Literal["text", "json"]
Noted = str | int | float | list[str]

OURS: Final = ("lepo", "app", "worker", "training", "migrations")  # roots of this product's loggers
TEXT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"

# What is known of the work under way in this task or thread; shared by the tasks it starts.
_known: ContextVar[dict[str, Noted] | None] = ContextVar("lepo_known", default=None)


@contextmanager
def about(**ids: Noted) -> Iterator[None]:
    """Put ids on every line written in the block, and in what it starts."""
    token = _known.set({**known(), **ids})
    try:
        yield
    finally:
        _known.reset(token)


def begin(**ids: Noted) -> None:
    """Begin work that has its task or thread to itself: only these ids are on its lines, to the very last."""
    _known.set(ids)


def note(**ids: Noted) -> None:
    """Add ids to those of the work under way, for its lines from now on; without any under way it is forgotten."""
    known = _known.get()
    if known is not None:
        known.update(ids)


def known() -> Mapping[str, Noted]:
    """Give the ids of the work under way."""
    return _known.get() or {}


def set_up(form: Format, stream: TextIO | None = None) -> None:
    """Send this process's log to a stream (standard error), in place of whatever was set up before."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Objects() if form == "json" else Lines(TEXT))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.captureWarnings(form == "json")  # else a warning of a library would be a line that is no JSON


def without_bars() -> None:
    """Keep progress bars of the model library out of the log; for processes that load models."""
    from transformers.utils import logging as bars

    bars.disable_progress_bar()


class Lines(logging.Formatter):
    """Writes a record for people, with what is known of it at the end of its first line."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Write its first line."""
        ids = " ".join(f"{name}={json.dumps(value)}" for name, value in known().items())
        return super().formatMessage(record) + (f"  {ids}" if ids else "")


class Objects(logging.Formatter):
    """Writes a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Write it."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **known(),
            **trace_ids(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def trace_ids() -> dict[str, str]:
    """Name the span under way, where this process traces at all: only then is OpenTelemetry loaded."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return {}
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return {}
    return {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}
