"""The way to a collector: what sends each kind of signal, and how this process is named there.

All else is the library's to read from OpenTelemetry's own variables: headers, certificates, compression, sampling,
batches. Leaves out what is sent (`app.telemetry.tracing`).
"""

import os
import socket
from importlib.metadata import version
from typing import Any

from app.settings import OTEL_ENVIRONMENT, Settings


def resource_of(part: str) -> Any:
    """Name this process, unless OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES do."""
    from opentelemetry.sdk.resources import Resource

    said = Resource.create()
    ours: dict[str, Any] = {
        "service.version": version("lepo-service"),
        "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
    }
    ours = {name: value for name, value in ours.items() if not said.attributes.get(name)}
    if str(said.attributes.get("service.name", "")).startswith("unknown_service"):
        ours["service.name"] = f"lepo-{part}"
    return said.merge(Resource(ours))


def exporters(settings: Settings) -> tuple[Any, Any, Any]:
    """Make what sends spans, records and figures."""
    base = None if settings.otel_endpoint == OTEL_ENVIRONMENT else settings.otel_endpoint
    if settings.otel_protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans

        return GrpcSpans(endpoint=base), GrpcLogs(endpoint=base), GrpcMetrics(endpoint=base)
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    def to(signal: str) -> str | None:
        return None if base is None else f"{base.rstrip('/')}/v1/{signal}"

    return (
        OTLPSpanExporter(endpoint=to("traces")),
        OTLPLogExporter(endpoint=to("logs")),
        OTLPMetricExporter(endpoint=to("metrics")),
    )
