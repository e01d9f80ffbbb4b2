"""What one HTTP request asks for, once it is known to be answerable: the seam between routes and answering.

Routes write it, `app.api.answering.answers` reads it. Leaves out HTTP and how answers are shown.
"""

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal
from uuid import UUID

from app.api.answering.generation import Budget, GenerationFields
from app.api.answering.trial_routing import unit_of
from app.engine.constraint import Constraint
from app.engine.request import Request
from app.identifiers import uuid7
from app.store.base import Json

Endpoint = Literal["chat", "completion", "response"]
# Of a body: what is recorded in columns of its own, and how a response is to be written.
APART: Final[set[str]] = {"grader", "user", "metadata", "session_id", "conversation", "return_token_ids"}
ID_PREFIXES: Final = {"chat": "chatcmpl-", "completion": "cmpl-", "response": "resp_"}


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt as the model sees it."""

    ids: tuple[int, ...]  # at least one token id
    text: str  # the same as text, after the chat template
    follows: UUID | None = None  # the recorded answer that it goes on from, token for token


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: its prompts, each to be answered `fields.choices` times."""

    endpoint: Endpoint
    prompts: tuple[Prompt, ...]  # one for chat, one or more for completions
    fields: GenerationFields  # as validated
    budget: Budget  # the same for every prompt
    top_logprobs: int  # candidates reported per token, 0 to 20
    logprobs: bool  # whether the answer shows log-probabilities
    key_id: str | None  # whose key it was
    grader_source: str  # whether that key may grade: `scoped` or `request`
    as_asked: Json  # the body without what is `APART`, for the record
    constraint: Constraint | None = None  # what the answers' text must be, compiled
    marks: Mapping[int, str] = field(default_factory=dict)  # special tokens that the answers' text shows
    session: str | None = None  # the client's name for the session it is a turn of, or that session's id
    goes_on: bool = False  # whether the answers' text goes on from the prompt's, without a turn's beginning
    version: int | None = None  # policy version that an admin wants; None: whichever a trial or the service chooses
    completion_hex: str = field(default_factory=lambda: uuid.uuid4().hex)
    request_id: UUID = field(default_factory=uuid7)  # of what is stored of it
    created: int = field(default_factory=lambda: int(time.time()))  # Unix seconds

    @property
    def completion_id(self) -> str:
        """Id of the response: `chatcmpl-<32 hex>`, `cmpl-<32 hex>` or `resp_<32 hex>`."""
        return ID_PREFIXES[self.endpoint] + self.completion_hex

    @property
    def stored(self) -> bool:
        """Whether its answers are recorded."""
        return self.fields.store is not False

    @property
    def unit(self) -> str:
        """The session, user or key it belongs to."""
        return unit_of(self.session, self.fields.user, self.key_id)

    @property
    def choices(self) -> int:
        """Answers of the whole request: prompts times `n`."""
        return len(self.prompts) * self.fields.choices

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts; a prompt with several choices counts once."""
        return sum(len(prompt.ids) for prompt in self.prompts)

    def group_id(self, prompt: int) -> str:
        """Id under which the choices of one prompt are stored: a group must never mix prompts."""
        return self.completion_id if len(self.prompts) == 1 else f"{self.completion_id}.{prompt}"

    def engine_request(self, prompt: Prompt, deadline_s: float, version: int | None) -> Request:
        """Say it in the engine's words; `version` is the one on trial that is wanted, None whatever serves."""
        fields = self.fields
        return Request(
            prompt_ids=prompt.ids,
            sampling=self.budget.sampling,
            max_new=self.budget.max_new,
            choices=fields.choices,
            min_tokens=fields.min_tokens or 0,
            stop=fields.stops,
            stop_ids=(*(fields.stop_token_ids or ()), *self.budget.stop_ids),
            ignore_eos=bool(fields.ignore_eos),
            logit_bias={int(token): float(bias) for token, bias in (fields.logit_bias or {}).items()},
            top_logprobs=self.top_logprobs,
            priority=fields.priority or 0,
            deadline_s=deadline_s,
            placement=self.budget.placement,
            version=version,
            constraint=self.constraint,
            penalties=fields.penalties,
            marks=self.marks,
            goes_on=self.goes_on,
        )
