"""The engine's own counts, read from it at each scrape. Leaves out what only answering knows (`app.api.metrics`)."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.engine.engine import Engine
from app.engine.lane import VersionStats

LABELS: Final = ("model_name",)


class EngineCollector(Collector):
    """Reads the engine.

    Args:
        engine: whose counts.
        prefix: of every name, with its colon.
        model: the label of every series.

    """

    def __init__(self, engine: Engine, prefix: str, model: str) -> None:
        self._engine = engine
        self._prefix = prefix
        self._model = model

    def describe(self) -> Iterable[Metric]:
        """Name nothing beforehand: the engine may not have started."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Write what the engine says now."""
        stats = self._engine.stats()
        gauges = {
            "num_requests_running": ("Choices being decoded.", stats.running),
            "num_requests_waiting": ("Choices waiting for a slot.", stats.waiting),
            "kv_cache_usage_perc": (
                "Share of the cache's blocks that answers and prompts hold, 0 to 1.",
                stats.cache_tokens / stats.cache_room,
            ),
            "slots": ("Choices that can be decoded together.", stats.slots),
            "cache_tokens": ("Positions in blocks that answers and prompts hold.", stats.cache_tokens),
            "prefix_cache_tokens": ("Positions that can be found for reuse.", stats.prefix_tokens),
            "policy_version": ("Version that new answers start on.", stats.version),
            "policy_versions_resident": ("Versions in memory.", len(stats.versions)),
            "engine_failed": ("1: the engine has failed, and its server is closing.", stats.failure is not None),
            "engine_step_seconds": ("Mean duration of a turn of the engine, of late.", stats.step_s),
        }
        counters = {
            "prompt_tokens": ("Prompt tokens asked for.", stats.prompt_tokens),
            "prefill_tokens": ("Prompt tokens computed.", stats.prefill_tokens),
            "prefix_cache_hits": ("Prompt tokens taken from the prefix cache.", stats.prefix_hit_tokens),
            "prefix_cache_queries": ("Prompt tokens looked up.", stats.prompt_tokens),
            "generation_tokens": ("Answer tokens drawn.", stats.tokens),
            "latent_steps": ("Latent steps drawn.", stats.latents),
            "engine_steps": ("Decode steps.", stats.steps),
            "requests_refused": ("Requests refused because the queue was full.", stats.refused),
            "num_preemptions": ("Answers that gave up their blocks and were computed again.", stats.preempted),
            "requests_not_finite": ("Requests that failed because logits were not numbers.", stats.not_finite),
            "swaps": ("Swaps of weights committed.", stats.swaps),
            "swap_failures": ("Swaps of weights refused.", stats.failed_swaps),
        }
        yield from by_version(self._prefix, stats.by_version)
        for name, (words, value) in gauges.items():
            yield self._filled(GaugeMetricFamily(self._prefix + name, words, labels=LABELS), value)
        for name, (words, value) in counters.items():
            yield self._filled(CounterMetricFamily(self._prefix + name, words, labels=LABELS), value)

    def _filled(self, family: GaugeMetricFamily | CounterMetricFamily, value: float) -> Metric:
        family.add_metric((self._model,), value)
        return family


def by_version(prefix: str, versions: Sequence[VersionStats]) -> Iterator[Metric]:
    """Write what each resident version does, two at most; one that leaves memory ends its series."""
    labels = ("policy_version", "role")
    running = GaugeMetricFamily(f"{prefix}version_running", "Choices being decoded, by version.", labels=labels)
    finished = CounterMetricFamily(f"{prefix}version_answers", "Choices ended, by version.", labels=labels)
    tokens = CounterMetricFamily(f"{prefix}version_tokens", "Answer tokens drawn, by version.", labels=labels)
    latents = CounterMetricFamily(f"{prefix}version_latents", "Latent steps drawn, by version.", labels=labels)
    for one in versions:
        named = (str(one.version), one.role)
        running.add_metric(named, one.running)
        finished.add_metric(named, one.finished)
        tokens.add_metric(named, one.tokens)
        latents.add_metric(named, one.latents)
    return iter((running, finished, tokens, latents))
