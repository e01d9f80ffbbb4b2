"""Spans of database statements, by SQLAlchemy's own events on one engine.

OpenTelemetry's instrumentation ends before SQLAlchemy 2.1, patches the library for the whole process and wants its
asynchronous half installed. Values are bound apart from statements and never told. Leaves out connections and pools.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine, event

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

LONGEST: Final = 2000  # characters of a statement
UNDER_WAY: Final = "lepo_spans"  # where a connection keeps them


def follow(engine: Engine, tracer: "Tracer") -> Callable[[], None]:
    """Trace every statement of an engine; gives what ends it."""
    from opentelemetry.trace import SpanKind, StatusCode

    def before(conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        words = statement.split(maxsplit=1)
        operation = words[0].upper() if words else ""
        attributes = {
            "db.system.name": "postgresql",
            "db.operation.name": operation,
            "db.query.text": statement[:LONGEST],
        }
        span = tracer.start_span(operation, kind=SpanKind.CLIENT, attributes=attributes)
        conn.info.setdefault(UNDER_WAY, []).append(span)

    def after(conn: Any, *_: Any) -> None:
        if conn.info.get(UNDER_WAY):
            conn.info[UNDER_WAY].pop().end()

    def failed(error: Any) -> None:
        if error.connection is None or error.cursor is None or not error.connection.info.get(UNDER_WAY):
            return
        span = error.connection.info[UNDER_WAY].pop()
        span.set_attribute("error.type", type(error.original_exception).__name__)
        span.set_status(StatusCode.ERROR)
        span.end()

    listeners: dict[str, Callable[..., None]] = {
        "before_cursor_execute": before,
        "after_cursor_execute": after,
        "handle_error": failed,
    }
    for name, listener in listeners.items():
        event.listen(engine, name, listener)

    def end() -> None:
        for name, listener in listeners.items():
            event.remove(engine, name, listener)

    return end
