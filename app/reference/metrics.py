"""The page of metrics, from what a server registers: names, kinds, labels, words."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

from prometheus_client.core import Metric

HEAD: Final = """\
# Metrics

`GET /metrics` in Prometheus' text form, without a key. Names begin with `LEPO_METRICS_PREFIX` and a colon; `vllm` there
gives vLLM's dashboards what they read. What they mean for an operator: [telemetry](../telemetry.md).

| metric | kind | labels | what it says |
|---|---|---|---|
"""


def page() -> str:
    """Write every metric of a server."""
    rows = sorted(set(described()))
    return HEAD + "\n".join(f"| `{name}` | {kind} | {labels} | {words} |" for name, kind, labels, words in rows) + "\n"


def described() -> Iterator[tuple[str, str, str, str]]:
    """Give name, kind, labels and words of each."""
    from app.api.metrics import Metrics
    from app.engine.engine import Engine
    from app.engine.lane import VersionStats
    from app.engine.stats import EngineStats
    from app.settings import Settings
    from app.telemetry.learning import LearningFigures

    version: dict[str, Any] = dict.fromkeys(VersionStats.__dataclass_fields__, 0)
    numbers: dict[str, Any] = dict.fromkeys(EngineStats.__dataclass_fields__, 1)
    stats = EngineStats(**{**numbers, "by_version": (VersionStats(**version),), "last_swap": None, "failure": None})
    idle = cast("Engine", SimpleNamespace(stats=lambda: stats))  # a server that has done nothing: only names are read
    metrics = Metrics(idle, Settings(var_dir=Path("/")))
    figures: dict[str, Any] = dict.fromkeys(LearningFigures.__dataclass_fields__, 0)
    metrics.learning.show(LearningFigures(**{**figures, "outcomes": {"promoted": 0}}))
    for collector in metrics.registry._collector_to_names:
        family: Metric
        for family in [*getattr(collector, "describe", tuple)()] or collector.collect():
            labels = sorted({name for sample in family.samples for name in sample.labels} - {"le"})
            own = list(getattr(collector, "_labelnames", ()))
            yield family.name, family.type, ", ".join(f"`{one}`" for one in own or labels), family.documentation
