"""What goes into the engine and what comes out: requests, events, and the errors of admission.

Plain records that cross threads; nothing here touches a tensor but the finished rollout.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from app.engine.constraint import Constraint
from training.placement import ANSWER, Placement
from training.rollout import Rollout
from training.sampling import Sampling

FinishReason = Literal[
    "stop",  # by the end of sequence, a stop string or id, or because its constraint allows nothing more
    "length",  # at `max_new`
    "cancelled",  # by whoever asked, or because the engine stops
    "deadline",  # at a bound of time, or of the work that its constraint may cause
]


@dataclass(frozen=True, slots=True)
class Penalties:
    """What tokens lose that were said before, in the order in which they are taken off."""

    repetition: float = 1.0  # divides a positive logit, multiplies a negative one, of the prompt's tokens too; > 0
    frequency: float = 0.0  # taken off for every time the answer has the token, -2 to 2
    presence: float = 0.0  # taken off once if the answer has the token, -2 to 2

    @property
    def any(self) -> bool:
        """Whether there is any."""
        return self != NO_PENALTIES


NO_PENALTIES: Final = Penalties()


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to be answered `choices` times; all choices share one prefill.

    Example: `Request(prompt_ids=(1, 5, 9), sampling=Sampling(latent_length=4, seed=7), max_new=64)`.
    """

    prompt_ids: tuple[int, ...]  # at least one token id, without what `placement` puts behind it
    sampling: Sampling  # `seed` is choice 0's; the others use `training.noise.choice_seed`
    max_new: int  # latent steps plus answer tokens, > sampling.latent_length
    choices: int = 1  # answers wanted, >= 1
    min_tokens: int = 0  # answer tokens before an ending is allowed
    stop: tuple[str, ...] = ()  # strings that end the answer; not part of its text
    stop_ids: tuple[int, ...] = ()  # token ids that end the answer beside the model's own end of sequence
    ignore_eos: bool = False  # go on past the end of sequence, to `max_new`
    logit_bias: dict[int, float] = field(default_factory=dict)  # token id -> added to its logit, -100 to 100
    top_logprobs: int = 0  # candidates reported per token, 0 to 20
    priority: int = 0  # smaller goes first among the waiting
    deadline_s: float | None = None  # seconds from submission after which the answer ends with "deadline"
    placement: Placement = ANSWER  # where the latent steps sit; without any it changes nothing
    version: int | None = None  # policy version wanted, where it is the candidate held ready; else what serves answers
    constraint: Constraint | None = None  # what the answer's text must be; see `app.engine.grammar`
    penalties: Penalties = NO_PENALTIES  # on tokens that were said before
    marks: Mapping[int, str] = field(default_factory=dict)  # special tokens that the text shows, and as what
    goes_on: bool = False  # the text goes on from the prompt's, so a first space is kept
    background: bool = False  # nobody waits: it takes slots nobody wants, and gives them up to whoever comes

    @property
    def lead_in_ids(self) -> tuple[int, ...]:
        """Ids executed after the prompt, before the first latent step."""
        return self.placement.before(self.prompt_ids) if self.sampling.latent_length else ()

    @property
    def lead_out_ids(self) -> tuple[int, ...]:
        """Ids executed after the last latent step, before the first token."""
        return self.placement.lead_out_ids if self.sampling.latent_length else ()

    @property
    def executed_ids(self) -> tuple[int, ...]:
        """Ids executed before the first step: the prompt and the lead-in."""
        return self.prompt_ids + self.lead_in_ids

    @property
    def positions(self) -> int:
        """Positions that an answer may take, what is executed before it included."""
        return len(self.executed_ids) + len(self.lead_out_ids) + self.max_new


class TokenInfo(NamedTuple):
    """One answer token as it was drawn."""

    token_id: int
    logprob: float  # natural log, whole vocabulary at the request's temperature (at 1 when that is 0)
    top: tuple[tuple[int, float], ...] = ()  # the likeliest candidates, (token id, logprob), by falling logprob


class Delta(NamedTuple):
    """New text of one choice. Text that may yet become part of a stop string is held back."""

    choice: int
    text: str  # may be empty while a character is still incomplete
    tokens: tuple[TokenInfo, ...]  # the id that ends the answer too, though it has no text


@dataclass(frozen=True, slots=True)
class Reasoned:
    """The latent steps of one choice are over; their reading is for display, never part of the answer's text."""

    choice: int
    reading_ids: tuple[int, ...]  # the mode of each latent step, [L]
    reading: str  # those ids as text


@dataclass(frozen=True, slots=True)
class Finished:
    """One choice is complete: its whole text and the trace that training needs."""

    choice: int
    text: str  # whole answer, stop string excluded
    reason: FinishReason
    rollout: Rollout  # `rollout.policy_version` is the one version all of its steps ran on
    version_spans: tuple[tuple[int, int], ...]  # (policy version, first step); one span unless swap_mode is in_place
    queued_s: float  # seconds from submission to the first prefill
    first_token_s: float | None  # seconds from submission to the first answer token
    first_step_s: float | None = None  # seconds from submission until its prompt was computed and it had a row
    latents_over_s: float | None = None  # seconds from submission to the end of its latent steps; None: there were none


@dataclass(frozen=True, slots=True)
class Crashed:
    """The engine failed while answering, or its logits were not numbers; the request is over. Safe to show."""

    message: str


Event = Reasoned | Delta | Finished | Crashed
Sink = Callable[[Sequence[Event]], None]  # called on the engine's thread, once per step per request; must not block


class EngineRefusal(Exception):
    """Base of the reasons why the engine does not take a request."""


class QueueFull(EngineRefusal):
    """Too many are waiting: HTTP 429."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"The engine's queue is full; retry in {retry_after_s:.0f} s.")
        self.retry_after_s = retry_after_s


class EngineClosed(EngineRefusal):
    """The engine is stopping or has stopped: HTTP 503."""


class RequestTooLong(EngineRefusal, ValueError):
    """Prompt and answer budget do not fit a slot: HTTP 400. `param` names the field."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param
