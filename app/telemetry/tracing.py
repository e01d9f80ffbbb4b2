"""OpenTelemetry: spans of requests, statements, tasks, answers and updates, and grades as events, to a collector.

An answer's span and its phases are written after the fact, from the times the engine took, on a thread of their own:
the event loop hands over a record and goes on, and where records come quicker than they are written some are left out.
Attributes are those of OpenTelemetry's GenAI conventions (in development) and ours under `lepo.`. No text of a prompt,
an answer, or a person's comment is sent. Providers belong to the object: nothing global is set. Needs the extra `otel`.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from queue import Full, Queue
from typing import TYPE_CHECKING, Any, Final

from app.errors import BadRequest
from app.settings import Settings
from app.telemetry.genai import grade_attributes, phases, request_attributes, response_attributes
from app.telemetry.otlp import exporters, resource_of
from app.telemetry.statements import follow
from app.telemetry.told import AnswerTold, ChoiceTold, GradeTold, Silence, Telemetry, UpdateTold

if TYPE_CHECKING:
    from celery import Celery
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from app.store.connect import Store

MOST_WAITING: Final = 512  # records not written yet
MOST_DETAILED: Final = 16  # choices of one request whose phases are told; of the others only their sums
CLOSING_S: Final = 5.0  # for what was not sent at the end
QUIET: Final = "/health$,/ready$,/metrics$"  # no spans for probes
EVALUATION: Final = "gen_ai.evaluation.result"

log = logging.getLogger("lepo.telemetry")


def telemetry_of(settings: Settings, part: str) -> Telemetry:
    """Make what listens in a process, as the settings say.

    Args:
        settings: LEPO_OTEL_*.
        part: which process this is: serve or worker.

    Raises:
        BadRequest: a collector is named and the packages to speak to it are missing.

    """
    if settings.otel_endpoint is None:
        return Silence()
    try:
        return OpenTelemetry(settings, part)
    except ImportError as error:
        words = "OpenTelemetry needs its packages: pip install 'lepo-service[otel]', or unset LEPO_OTEL_ENDPOINT"
        raise BadRequest(f"{words} ({error}).") from error


class OpenTelemetry:
    """Tells a collector. Made once per process, closed at its end."""

    def __init__(self, settings: Settings, part: str) -> None:
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = resource_of(part)
        spans, records, figures = exporters(settings)
        self._spans = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._spans.add_span_processor(BatchSpanProcessor(spans))
        self._events = LoggerProvider(resource=resource, shutdown_on_exit=False)
        self._events.add_log_record_processor(BatchLogRecordProcessor(records))
        reader = PeriodicExportingMetricReader(figures)
        self._figures = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        self._tracer = self._spans.get_tracer("lepo", version("lepo-service"))
        self._logger = self._events.get_logger("lepo", version("lepo-service"))
        meter = self._figures.get_meter("lepo", version("lepo-service"))
        self._histograms = {
            name: meter.create_histogram(f"gen_ai.server.{name}", unit="s")
            for name in ("request.duration", "time_to_first_token", "time_per_output_token")
        }
        self._undo: list[Callable[[], object]] = []
        self._waiting: Queue[Callable[[], None] | None] = Queue(MOST_WAITING)
        self._writer = threading.Thread(target=self._write, name="lepo-telemetry", daemon=True)
        self._writer.start()

    def answered(self, told: AnswerTold) -> None:
        """Tell of a request's answers, under the span of the request."""
        self._later(partial(self._answer, told, here()))

    def graded(self, told: GradeTold) -> None:
        """Tell of a grade as an evaluation."""
        self._later(partial(self._grade, told, here()))

    def updated(self, told: UpdateTold) -> None:
        """Tell of an update and its phases, under the span of its task."""
        self._later(partial(self._update, told, here()))

    def follow_app(self, app: Any) -> None:
        """Trace the requests of an application that has not started; a stream's pieces are no spans."""
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        FastAPIInstrumentor.instrument_app(
            app,
            tracer_provider=self._spans,
            meter_provider=self._figures,
            excluded_urls=QUIET,
            exclude_spans=["receive", "send"],
        )

    def follow_stores(self, *stores: "Store") -> None:
        """Trace what is asked of databases: statements without their values."""
        self._undo += [follow(store.engine, self._tracer) for store in stores]

    def follow_tasks(self, celery: "Celery") -> None:  # noqa: ARG002 - Celery's signals are of the whole process
        """Trace tasks, sent and run; what is sent carries the trace on."""
        from opentelemetry.instrumentation.celery import CeleryInstrumentor

        instrumentor = CeleryInstrumentor()  # type: ignore[no-untyped-call]  # it has few types
        instrumentor.instrument(tracer_provider=self._spans, meter_provider=self._figures)
        self._undo.append(instrumentor.uninstrument)

    def close(self) -> None:
        """Send what was not sent yet, for a while; a collector that is away holds nothing up."""
        for undo in self._undo:
            undo()
        self._undo.clear()
        self._waiting.put(None)
        self._writer.join(CLOSING_S)
        closing = threading.Thread(target=self._shut_down, daemon=True)
        closing.start()
        closing.join(CLOSING_S)

    def _shut_down(self) -> None:
        self._spans.shutdown()
        self._events.shutdown()
        self._figures.shutdown()

    def _later(self, work: Callable[[], None]) -> None:
        try:
            self._waiting.put_nowait(work)
        except Full:
            log.debug("telemetry is left out: %d records wait", MOST_WAITING)

    def _write(self) -> None:
        while (work := self._waiting.get()) is not None:
            work()

    def _answer(self, told: AnswerTold, parent: "Context") -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode

        over_at = max((one.committed_at for one in told.choices), default=time.monotonic())
        span = self._tracer.start_span(
            f"{told.operation} {told.model}",
            parent,
            SpanKind.INTERNAL,
            request_attributes(told),
            start_time=ns(told.asked_at),
        )
        if told.error is not None:
            span.set_attribute("error.type", told.error)
            span.set_status(Status(StatusCode.ERROR, told.error))
        if told.choices:
            span.set_attributes(response_attributes(told))
        for one in told.choices[:MOST_DETAILED]:
            self._phases(told, one, span)
        span.end(ns(over_at))
        self._measure(told, over_at)

    def _phases(self, told: AnswerTold, one: ChoiceTold, parent: "Span") -> None:
        """Write where one choice's time went."""
        attributes = {"lepo.choice": one.choice, "lepo.interaction_id": one.interaction_id}
        began = told.asked_at
        for name, until in phases(one):
            self._done(name, parent, began, until, attributes)
            began = until

    def _done(self, name: str, parent: "Span", began: float, ended: float, attributes: Mapping[str, Any]) -> None:
        from opentelemetry.trace import set_span_in_context

        span = self._tracer.start_span(
            name, set_span_in_context(parent), attributes=dict(attributes), start_time=ns(began)
        )
        span.end(ns(max(began, ended)))

    def _measure(self, told: AnswerTold, over_at: float) -> None:
        attributes = {
            "gen_ai.operation.name": told.operation,
            "gen_ai.provider.name": "lepo",
            "gen_ai.request.model": told.model,
        }
        failed = {} if told.error is None else {"error.type": told.error}
        self._histograms["request.duration"].record(over_at - told.asked_at, {**attributes, **failed})
        for one in told.choices:
            if one.first_token_at is None:
                continue
            self._histograms["time_to_first_token"].record(one.first_token_at - told.asked_at, attributes)
            if one.tokens > 1:
                each = (one.ended_at - one.first_token_at) / (one.tokens - 1)
                self._histograms["time_per_output_token"].record(each, attributes)

    def _grade(self, told: GradeTold, parent: "Context") -> None:
        from opentelemetry._logs import SeverityNumber

        self._logger.emit(
            timestamp=time.time_ns(),
            context=parent,
            severity_number=SeverityNumber.INFO,
            event_name=EVALUATION,
            attributes=grade_attributes(told),
        )

    def _update(self, told: UpdateTold, parent: "Context") -> None:
        attributes: dict[str, Any] = {
            "lepo.job_id": told.job_id,
            "lepo.policy_version": told.base_version,
            "lepo.outcome": told.outcome,
            "lepo.answers": told.answers,
        }
        span = self._tracer.start_span("learn", parent, attributes=attributes, start_time=ns(told.began_at))
        began = told.began_at
        for name, seconds in told.phases.items():
            self._done(name, span, began, began + seconds, {"lepo.job_id": told.job_id})
            began += seconds
        span.end(ns(max(began, told.began_at)))


def here() -> "Context":
    """Give the context of whoever calls: what is told stands under its span."""
    from opentelemetry import context

    return context.get_current()


def ns(at: float) -> int:
    """Turn a moment of this process's monotonic clock into nanoseconds since 1970, by the wall clock of now."""
    return time.time_ns() - int((time.monotonic() - at) * 1e9)
