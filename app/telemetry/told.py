"""What there is to tell of an answer, a grade and an update, and who listens: nobody, unless a collector is named.

Plain records: whoever makes them knows nothing of OpenTelemetry, and pays nothing where none is asked for. Times are
monotonic seconds of this process. Leaves out how it is told (`app.telemetry.tracing`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from celery import Celery

    from app.store.connect import Store


@dataclass(frozen=True, slots=True)
class ChoiceTold:
    """One committed choice. Its phases: queue, prefill, latent (none without latent steps), decode, commit."""

    choice: int  # over all prompts of the request
    interaction_id: str  # int_<32 hex>
    policy_version: int  # >= 0
    finish_reason: str  # stop, length, cancelled, deadline
    latents: int  # latent steps
    tokens: int  # answer tokens
    prefill_at: float  # when its prefill began; until then it waited
    first_step_at: float | None  # when it got a row, its prompt computed; None: never
    first_token_at: float | None  # None: there was none
    latents_over_at: float | None  # None: no latent steps, or they did not all happen
    ended_at: float  # when its end was heard
    committed_at: float  # when its row was


@dataclass(frozen=True, slots=True)
class AnswerTold:
    """One request, once all of its choices are over. Example: operation "chat", model "lepo", n = 1, 12 tokens in."""

    operation: str  # chat or text_completion, GenAI's words
    model: str  # as the client named it
    response_id: str
    conversation_id: str | None  # the session it belongs to, where it said so
    asked_at: float  # when it was submitted
    input_tokens: int  # of all prompts, each once
    n: int  # choices asked for, >= 1
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int  # latent steps and answer tokens of a choice, at most
    choices: Sequence[ChoiceTold]  # those committed
    error: str | None  # the code of what went wrong, if anything did


@dataclass(frozen=True, slots=True)
class GradeTold:
    """One entry of the ledger, committed."""

    name: str  # kind of the grader
    value: float | None  # None: a correction alone, or the grader failed
    label: str  # graded, corrected, failed or retracted
    explanation: str | None  # what a grader of this server said; people's words stay in the store
    response_id: str
    interaction_id: str  # int_<32 hex>


@dataclass(frozen=True, slots=True)
class UpdateTold:
    """One job, over."""

    job_id: str  # job_<32 hex>
    base_version: int  # of the policy that learned
    outcome: str  # promoted, held, refused, nothing_to_learn, ended, failed, ...
    began_at: float
    phases: Mapping[str, float]  # seconds of each, in order
    answers: int  # claimed


class Telemetry(Protocol):
    """Who listens. Every method returns at once and raises nothing."""

    def answered(self, told: AnswerTold) -> None:
        """Hear of a request's answers; called where the request is served."""
        ...

    def graded(self, told: GradeTold) -> None:
        """Hear of a grade."""
        ...

    def updated(self, told: UpdateTold) -> None:
        """Hear of an update."""
        ...

    def follow_app(self, app: Any) -> None:
        """Trace the requests of a FastAPI application that has not started."""
        ...

    def follow_stores(self, *stores: "Store") -> None:
        """Trace what is asked of databases."""
        ...

    def follow_tasks(self, celery: "Celery") -> None:
        """Trace tasks, sent and run."""
        ...

    def close(self) -> None:
        """Send what was not sent yet, within seconds."""
        ...


class Silence:
    """Listens to nothing."""

    def answered(self, told: AnswerTold) -> None:
        """Let it pass."""

    def graded(self, told: GradeTold) -> None:
        """Let it pass."""

    def updated(self, told: UpdateTold) -> None:
        """Let it pass."""

    def follow_app(self, app: Any) -> None:
        """Let it be."""

    def follow_stores(self, *stores: "Store") -> None:
        """Let them be."""

    def follow_tasks(self, celery: "Celery") -> None:
        """Let them be."""

    def close(self) -> None:
        """Nothing waits."""
