"""What is counted for Prometheus: vLLM's names where one exists (`lepo:` in place of `vllm:`), and what only we have.

One registry per app. What the engine counts is read from it at each scrape; what only answering knows is observed here.
Leaves out what stands in the store (`app.store.overview`).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.engine.engine import Engine
from app.engine.lane import VersionStats
from app.engine.request import Finished
from app.engine.swap import SwapReport

SHORT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
LONG_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
LABELS: Final = ("model_name",)
KINDS: Final = frozenset({"client", "user"})  # other kinds are callers' own words; each would be a series for ever


class Metrics:
    """The registry of one app and what is observed into it."""

    def __init__(self, engine: Engine, model: str) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(engine, model))
        named: dict[str, Any] = {"registry": self.registry, "labelnames": LABELS}
        self._first_token = Histogram(
            "lepo:time_to_first_token_seconds", "Submission to first answer token.", buckets=LONG_S, **named
        ).labels(model)
        self.inter_token = Histogram(
            "lepo:inter_token_latency_seconds", "Between two answer tokens of a choice.", buckets=SHORT_S, **named
        ).labels(model)
        self._queue = Histogram(
            "lepo:request_queue_time_seconds", "Submission to first prefill.", buckets=LONG_S, **named
        ).labels(model)
        self._whole = Histogram(
            "lepo:e2e_request_latency_seconds", "Submission to commit.", buckets=LONG_S, **named
        ).labels(model)
        self._success = Counter(
            "lepo:request_success",
            "Choices committed, or answered where nothing is to be recorded, by how they ended.",
            ("model_name", "finished_reason"),
            registry=self.registry,
        )
        self._unstored = Counter(
            "lepo:choices_unstored",
            "Choices answered and not recorded (`store: false`).",
            LABELS,
            registry=self.registry,
        ).labels(model)
        self._grades = Counter("lepo:grades", "Grades accepted, by kind of grader.", ("kind",), registry=self.registry)
        self._pause = Histogram(
            "lepo:swap_pause_seconds", "How long a swap held the step loop.", buckets=SHORT_S, registry=self.registry
        )
        self._staging = Histogram(
            "lepo:swap_stage_seconds", "Reading and proving new weights.", buckets=LONG_S, registry=self.registry
        )
        self._model = model

    def answered(self, finished: Sequence[Finished], whole_s: float, *, stored: bool = True) -> None:
        """Count choices that are committed, or need not be; `whole_s` is seconds from submission to now."""
        if not stored:
            self._unstored.inc(len(finished))
        for choice in finished:
            self._success.labels(self._model, choice.reason).inc()
            self._queue.observe(choice.queued_s)
            self._whole.observe(whole_s)
            if choice.first_token_s is not None:
                self._first_token.observe(choice.first_token_s)

    def graded(self, kind: str) -> None:
        """Count an accepted grade."""
        self._grades.labels(kind if kind in KINDS else "other").inc()

    def swapped(self, report: SwapReport) -> None:
        """Count a committed swap."""
        self._pause.observe(report.pause_s)
        self._staging.observe(report.staged_s)


class EngineCollector(Collector):
    """Reads the engine's own counts at each scrape."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine = engine
        self._model = model

    def describe(self) -> Iterable[Metric]:
        """Name nothing beforehand: the engine may not have started."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Write what the engine says now."""
        stats = self._engine.stats()
        gauges = {
            "lepo:num_requests_running": ("Choices being decoded.", stats.running),
            "lepo:num_requests_waiting": ("Choices waiting for a slot.", stats.waiting),
            "lepo:slots": ("Choices that can be decoded together.", stats.slots),
            "lepo:cache_tokens": ("Positions held by running choices.", stats.cache_tokens),
            "lepo:prefix_cache_tokens": ("Prompt positions kept for reuse.", stats.prefix_tokens),
            "lepo:policy_version": ("Version that new answers start on.", stats.version),
            "lepo:policy_versions_resident": ("Versions in memory.", len(stats.versions)),
            "lepo:engine_step_seconds": ("Mean duration of a turn of the engine, of late.", stats.step_s),
        }
        counters = {
            "lepo:prompt_tokens": ("Prompt tokens asked for.", stats.prompt_tokens),
            "lepo:prefill_tokens": ("Prompt tokens computed.", stats.prefill_tokens),
            "lepo:prefix_cache_hits": ("Prompt tokens taken from the prefix cache.", stats.prefix_hit_tokens),
            "lepo:prefix_cache_queries": ("Prompt tokens looked up.", stats.prompt_tokens),
            "lepo:generation_tokens": ("Answer tokens drawn.", stats.tokens),
            "lepo:latent_steps": ("Latent steps drawn.", stats.latents),
            "lepo:engine_steps": ("Decode steps.", stats.steps),
            "lepo:requests_refused": ("Requests refused because the queue was full.", stats.refused),
            "lepo:swaps": ("Swaps of weights committed.", stats.swaps),
            "lepo:swap_failures": ("Swaps of weights refused.", stats.failed_swaps),
        }
        yield from by_version(stats.by_version)
        for name, (words, value) in gauges.items():
            yield self._filled(GaugeMetricFamily(name, words, labels=LABELS), value)
        for name, (words, value) in counters.items():
            yield self._filled(CounterMetricFamily(name, words, labels=LABELS), value)

    def _filled(self, family: GaugeMetricFamily | CounterMetricFamily, value: float) -> Metric:
        family.add_metric((self._model,), value)
        return family


def by_version(versions: Sequence[VersionStats]) -> Iterator[Metric]:
    """Write what each resident version does, two at most; one that leaves memory ends its series."""
    labels = ("policy_version", "role")
    running = GaugeMetricFamily("lepo:version_running", "Choices being decoded, by version.", labels=labels)
    finished = CounterMetricFamily("lepo:version_answers", "Choices ended, by version.", labels=labels)
    tokens = CounterMetricFamily("lepo:version_tokens", "Answer tokens drawn, by version.", labels=labels)
    latents = CounterMetricFamily("lepo:version_latents", "Latent steps drawn, by version.", labels=labels)
    for one in versions:
        named = (str(one.version), one.role)
        running.add_metric(named, one.running)
        finished.add_metric(named, one.finished)
        tokens.add_metric(named, one.tokens)
        latents.add_metric(named, one.latents)
    return iter((running, finished, tokens, latents))
