"""What is counted for Prometheus of one server: vLLM's names where one exists, and what only we have.

Names begin with LEPO_METRICS_PREFIX and a colon; with `vllm` there, vLLM's dashboards and autoscalers read this server
unchanged. One registry per app: what only answering knows is observed here, what the engine counts is read from it at
each scrape (`app.telemetry.engine`), what stands in the store is of the whole service (`app.telemetry.learning`).
"""

from collections.abc import Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from app.engine.engine import Engine
from app.engine.request import Finished
from app.engine.swap import SwapReport
from app.settings import Settings
from app.telemetry.disk import DiskCollector
from app.telemetry.engine import EngineCollector
from app.telemetry.learning import LearningCollector

SHORT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
HTTP_S = (0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)  # few: there is a set for each route
LONG_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
CHOICES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
LABELS: Final = ("model_name",)
KINDS: Final = frozenset({"client", "user"})  # other kinds are callers' own words; each would be a series for ever

HISTOGRAMS: Final = {  # name: what it says, buckets
    "time_to_first_token_seconds": ("Submission to first answer token.", LONG_S),
    "inter_token_latency_seconds": ("Between two answer tokens of a choice.", SHORT_S),
    "request_time_per_output_token_seconds": ("The same, as the mean of each choice; 0 for a single token.", SHORT_S),
    "e2e_request_latency_seconds": ("Submission to commit.", LONG_S),
    "request_queue_time_seconds": ("Submission to first prefill.", LONG_S),
    "request_prefill_time_seconds": ("Prefill to the first step, latent or token.", LONG_S),
    "request_latent_time_seconds": ("Latent steps, from the first to the last.", LONG_S),
    "request_decode_time_seconds": ("Answer tokens, from the first step for one to the last.", LONG_S),
    "request_inference_time_seconds": ("Prefill to the last step.", LONG_S),
    "request_prompt_tokens": ("Tokens of a prompt, by choice.", TOKENS),
    "request_generation_tokens": ("Latent steps and answer tokens of a choice.", TOKENS),
    "request_max_num_generation_tokens": ("The same, of a request's longest choice.", TOKENS),
    "request_params_max_tokens": ("Latent steps and tokens a choice might have had, by request.", TOKENS),
    "request_params_n": ("Choices asked for, by request.", CHOICES),
}


class Metrics:
    """The registry of one app and what is observed into it."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        model, prefix = settings.served_name, f"{settings.metrics_prefix}:"
        self.registry = CollectorRegistry()
        self.learning = LearningCollector(prefix)
        self.registry.register(EngineCollector(engine, prefix, model))
        self.registry.register(self.learning)
        self.registry.register(DiskCollector(settings.var_dir, prefix))
        self._histograms = {
            name: Histogram(prefix + name, words, LABELS, buckets=buckets, registry=self.registry).labels(model)
            for name, (words, buckets) in HISTOGRAMS.items()
        }
        named: dict[str, Any] = {"registry": self.registry}
        self._success = Counter(
            f"{prefix}request_success",
            "Choices committed, or answered where nothing is to be recorded, by how they ended.",
            ("model_name", "finished_reason"),
            **named,
        )
        self._grades = Counter(f"{prefix}grades", "Grades accepted, by kind of grader.", ("kind",), **named)
        self._requests = Counter(
            f"{prefix}http_requests", "HTTP requests answered.", ("method", "handler", "status"), **named
        )
        self._request_seconds = Histogram(
            f"{prefix}http_request_duration_seconds",
            "HTTP requests by route, from their start to the end of their answer, streams included.",
            ("handler",),
            buckets=HTTP_S,
            **named,
        )
        self._unstored = Counter(
            f"{prefix}choices_unstored", "Choices answered and not recorded (`store: false`).", LABELS, **named
        ).labels(model)
        self._pause = Histogram(
            f"{prefix}swap_pause_seconds", "How long a swap held the step loop.", buckets=SHORT_S, **named
        )
        self._staging = Histogram(
            f"{prefix}swap_stage_seconds", "Reading and proving new weights.", buckets=LONG_S, **named
        )
        self._model = model

    def between_tokens(self, seconds: float) -> None:
        """Observe the time between two answer tokens of a choice."""
        self._histograms["inter_token_latency_seconds"].observe(seconds)

    def answered(
        self, finished: Sequence[Finished], prompt_tokens: int, ended_s: float, whole_s: float, *, stored: bool
    ) -> None:
        """Count choices of one prompt; seconds from submission to their end, and to their commit, if there is one."""
        if not stored:
            self._unstored.inc(len(finished))
        for choice in finished:
            self._success.labels(self._model, choice.reason).inc()
            rollout = choice.rollout
            seen = {
                "request_queue_time_seconds": choice.queued_s,
                "e2e_request_latency_seconds": whole_s,
                "request_prompt_tokens": prompt_tokens,
                "request_generation_tokens": rollout.latent_length + rollout.answer_length,
            }
            seen |= phases(choice, ended_s)
            for name, value in seen.items():
                self._histograms[name].observe(value)

    def completed(self, choices: int, most_tokens: int, longest: int) -> None:
        """Count a request whose every choice is over: choices asked for, tokens each might have, and the longest's."""
        self._histograms["request_params_n"].observe(choices)
        self._histograms["request_params_max_tokens"].observe(most_tokens)
        self._histograms["request_max_num_generation_tokens"].observe(longest)

    def graded(self, kind: str) -> None:
        """Count an accepted grade."""
        self._grades.labels(kind if kind in KINDS else "other").inc()

    def requested(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an HTTP request, and time it."""
        self._request_seconds.labels(route).observe(seconds)
        self._requests.labels(method, route, str(status)).inc()

    def swapped(self, report: SwapReport) -> None:
        """Count a committed swap."""
        self._pause.observe(report.pause_s)
        self._staging.observe(report.staged_s)


def phases(choice: Finished, ended_s: float) -> dict[str, float]:
    """Say how long each part of a choice took, in seconds; a part that never came is left out."""
    found: dict[str, float] = {}
    if choice.first_step_s is None:
        return found
    found["request_prefill_time_seconds"] = choice.first_step_s - choice.queued_s
    found["request_inference_time_seconds"] = ended_s - choice.queued_s
    begun = choice.first_step_s
    if choice.latents_over_s is not None:
        found["request_latent_time_seconds"] = choice.latents_over_s - begun
        begun = choice.latents_over_s
    if choice.first_token_s is not None:
        found["time_to_first_token_seconds"] = choice.first_token_s
        found["request_decode_time_seconds"] = ended_s - begun
        tokens = choice.rollout.answer_length
        each = (ended_s - choice.first_token_s) / (tokens - 1) if tokens > 1 else 0.0
        found["request_time_per_output_token_seconds"] = each
    return found
