"""How a running service tells what it does: `log` (lines with ids), `tracing` (OpenTelemetry), `learning` (figures).

`layer` stands around the HTTP application. Nothing here decides anything, and nothing here is needed to answer. Leaves
out what Prometheus reads of one server (`app.api.metrics`).
"""
