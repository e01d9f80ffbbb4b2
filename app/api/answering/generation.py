"""The fields that chat and plain completions share, and what they become for the engine.

Unknown fields are refused, as OpenAI does: a mistyped `latnet` must not quietly serve plain sampling. Fields of other
servers that would change the answer are accepted only at values that change nothing; fields that cannot change it
(`service_tier`, ...) are accepted and ignored. Leaves out prompts and routes (`chat`, `completions`).
"""

import secrets
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from app.api.answering.formats import FormatFields
from app.api.http.fields import NO_NUL, Ignored, JsonObject, Strict, Text, only
from app.engine.request import Penalties
from app.errors import BadRequest
from app.settings import Settings
from training.placement import ANSWER, Placement, PlacementName
from training.sampling import MOST_DRAWS, Sampling

MAX_STOPS = 16
MAX_STOP_LENGTH = 256
MAX_STOP_IDS = 64
MAX_BIASES = 1024
MAX_METADATA = 16
SEEDS = 2**63
COUNTS = 2**31  # counts beyond it are nobody's wish, and longer ones cannot even be written into an error
SessionName = Annotated[Text, Field(min_length=1, max_length=256)]
# what the checks below ask, as the document says it
ONE_STOP = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_LENGTH, **NO_NUL}
STOPS = {"type": "array", "maxItems": MAX_STOPS, "items": ONE_STOP}
STOP = {"anyOf": [STOPS, ONE_STOP, {"type": "null"}]}
BIASES = {
    "type": "object",
    "maxProperties": MAX_BIASES,
    "propertyNames": {"pattern": "^[0-9]{1,9}$"},
    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
}
BIAS = {"anyOf": [BIASES, {"type": "null"}]}
ENTRIES = {
    "type": "object",
    "maxProperties": MAX_METADATA,
    "propertyNames": {"maxLength": 64, **NO_NUL},
    "additionalProperties": {"type": "string", "maxLength": 512, **NO_NUL},
}
METADATA = {"anyOf": [ENTRIES, {"type": "null"}]}
TOO_LONG = "context_length_exceeded"


def check_stop(value: list[str] | str | None) -> list[str] | str | None:
    """Bound the stop strings.

    Raises:
        PydanticCustomError: too many, one is empty, or one is too long.

    """
    stops = [value] if isinstance(value, str) else value or []
    if len(stops) > MAX_STOPS:
        raise PydanticCustomError("invalid_value", f"takes at most {MAX_STOPS} strings")
    if any(not 1 <= len(stop) <= MAX_STOP_LENGTH for stop in stops):
        raise PydanticCustomError("invalid_value", f"each string must have 1 to {MAX_STOP_LENGTH} characters")
    return value


def check_bias(value: dict[str, float] | None) -> dict[str, float] | None:
    """Bound the logit biases; keys are token ids written as text, because JSON has no others.

    Raises:
        PydanticCustomError: too many, a key is no token id, or a bias is out of range.

    """
    if value is None:
        return value
    if len(value) > MAX_BIASES:
        raise PydanticCustomError("invalid_value", f"takes at most {MAX_BIASES} tokens")
    if any(not (key.isascii() and key.isdecimal() and len(key) < 10) for key in value):
        raise PydanticCustomError("invalid_value", "keys must be token ids")
    if any(not -100 <= bias <= 100 for bias in value.values()):
        raise PydanticCustomError("invalid_value", "biases must be between -100 and 100")
    return value


def check_metadata(value: dict[str, str] | None) -> dict[str, str] | None:
    """Bound what a caller may attach to an answer.

    Raises:
        PydanticCustomError: too many entries, or one is too long.

    """
    if value is not None and len(value) > MAX_METADATA:
        raise PydanticCustomError("invalid_value", f"takes at most {MAX_METADATA} entries")
    if value is not None and any(len(key) > 64 or len(text) > 512 for key, text in value.items()):
        raise PydanticCustomError("invalid_value", "keys must have at most 64 characters, values at most 512")
    return value


class LatentFields(Strict):
    """`latent`: the latent steps before the answer; what is left out takes the server's default."""

    length: int | None = Field(None, ge=0, lt=COUNTS, description="Latent steps; 0 is ordinary sampling.")
    tau: float | None = Field(None, ge=1e-6, le=10, description="Gumbel-softmax temperature; usable: 0.3 to 0.6.")
    draws: int | None = Field(None, ge=1, le=MOST_DRAWS, description="Samples whose mean a latent step is.")
    top_k: int | None = Field(None, ge=1, lt=COUNTS, description="As the top-level `top_k`, and goes before it.")
    placement: PlacementName | None = Field(None, description="Where they sit; see LEPO_LATENT_PLACEMENT.")


class StreamOptions(Strict):
    """`stream_options`."""

    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False
    include_obfuscation: bool | None = False  # accepted, never done


class ConversationName(Strict):
    """`conversation` as an object."""

    id: SessionName


class GenerationFields(FormatFields, Strict):
    """Everything a request may say about how its answers are drawn."""

    model: Text
    n: int | None = Field(None, ge=1, lt=COUNTS)
    seed: int | None = Field(None, ge=-SEEDS, lt=SEEDS)
    stop: Annotated[list[Text] | Text | None, AfterValidator(check_stop), WithJsonSchema(STOP)] = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, lt=COUNTS, description="0 and -1: as many as LEPO_MAX_TOP_K allows.")
    min_p: float | None = Field(None, ge=0, le=1, description="Drops what is less likely than this share of the first.")
    presence_penalty: float | None = Field(
        None, ge=-2, le=2, description="An answer with penalties is not learned from."
    )
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, ge=0.01, le=10, description="Of the prompt's tokens too.")
    max_tokens: int | None = Field(None, ge=0, lt=COUNTS, description="Answer tokens, latent steps not counted.")
    max_completion_tokens: int | None = Field(
        None, ge=1, lt=COUNTS, description="Latent steps and answer tokens together; goes before max_tokens."
    )
    min_tokens: int | None = Field(None, ge=0, lt=COUNTS)
    ignore_eos: bool | None = None
    stop_token_ids: list[int] | None = Field(None, max_length=MAX_STOP_IDS)
    logit_bias: Annotated[dict[str, float] | None, AfterValidator(check_bias), WithJsonSchema(BIAS)] = None
    latent: LatentFields | None = None
    grader: JsonObject | None = Field(None, description="A grader to run on each answer; see /v1/graders/validate.")
    priority: int | None = Field(None, ge=-100, le=100, description="Smaller goes first; below 0 for admin keys.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[Text, Field(max_length=256)] | None = None
    metadata: Annotated[dict[Text, Text] | None, AfterValidator(check_metadata), WithJsonSchema(METADATA)] = None
    session_id: SessionName | None = Field(None, description="Joins turns; also `conversation`, or X-Session-Id.")
    conversation: SessionName | ConversationName | None = Field(None, description="Another name of `session_id`.")
    return_token_ids: bool | None = Field(None, description="Show `prompt_token_ids` and each choice's `token_ids`.")

    use_beam_search: Annotated[Any, only(False)] = None
    skip_special_tokens: Annotated[Any, only(True)] = None
    include_stop_str_in_output: Annotated[Any, only(False)] = None

    store: bool | None = Field(
        None, description="False: the answer is not recorded, so it has no id, and nothing is learned from it."
    )
    service_tier: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None

    @property
    def choices(self) -> int:
        """Answers wanted per prompt."""
        return self.n or 1

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings, none to sixteen."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def penalties(self) -> Penalties:
        """Penalties on what was said before, none where nothing is said."""
        return Penalties(
            repetition=1.0 if self.repetition_penalty is None else float(self.repetition_penalty),
            frequency=float(self.frequency_penalty or 0),
            presence=float(self.presence_penalty or 0),
        )


@dataclass(frozen=True, slots=True)
class Budget:
    """How much one answer may take, once the server's limits are known."""

    sampling: Sampling  # with the request's seed
    max_new: int  # latent steps plus answer tokens
    placement: Placement = ANSWER  # where the latent steps sit, if there are any
    stop_ids: tuple[int, ...] = ()  # special tokens among the stop strings, which no text can spell


def draw_settings(
    fields: GenerationFields, settings: Settings, *, room: int, seed: int, prompt: str, placement: Placement | None
) -> Budget:
    """Fill what the request leaves open from the settings, and fit the answer behind its prompt.

    `max_tokens` counts answer tokens; `max_completion_tokens` counts latent steps too, as OpenAI counts reasoning. A
    budget the caller did not name shrinks to what the context leaves, and latent steps the caller did not ask for
    give way to the answer's tokens; what was asked for in so many words is refused when it does not fit.

    Args:
        fields: the request.
        settings: defaults and limits.
        room: positions that the longest prompt leaves; may be negative.
        seed: in [0, 2**63).
        prompt: the field that holds the prompt, named when it is too long.
        placement: where latent steps sit; None: there are none unless the request asks for them.

    Raises:
        BadRequest: a limit is passed; `param` names the field.

    """
    latent = fields.latent or LatentFields()
    default = 0 if placement is None else settings.latent_length
    length = default if latent.length is None else latent.length
    placement = placement or ANSWER
    if length and latent.length is None and room <= placement.size + 1:
        length = 0  # what nobody asked for gives way
    if length:
        room -= placement.size
    if room < 1:
        raise BadRequest("The prompt does not fit this model's context; shorten it.", param=prompt, code=TOO_LONG)
    wanted = fields.max_completion_tokens
    if wanted is None and fields.max_tokens is not None:
        if latent.length is None:
            length = max(0, min(length, room - fields.max_tokens))
        wanted = fields.max_tokens + length
    max_new = min(settings.max_completion_tokens, room) if wanted is None else wanted
    if fields.max_completion_tokens is not None or fields.max_tokens is None:
        length = fit_latents(length, max_new, asked=latent.length is not None)
    if max_new > room:
        words = f"The prompt leaves {room} positions of the context and {max_new} were asked for; ask for less."
        raise BadRequest(words, param=prompt, code=TOO_LONG)
    return Budget(sampling(fields, settings, length, seed), max_new, placement if length else ANSWER)


def fit_latents(length: int, max_new: int, *, asked: bool) -> int:
    """Leave at least one step of the budget to the answer.

    Raises:
        BadRequest: the caller asked for more latent steps than the budget holds.

    """
    if length < max_new:
        return length
    if asked:
        words = f"latent.length is {length}, and the budget of {max_new} steps must hold at least one token more."
        raise BadRequest(words, param="latent.length")
    return max_new - 1


def sampling(fields: GenerationFields, settings: Settings, length: int, seed: int) -> Sampling:
    """Settle the draw. One filter serves latent and token steps, so `latent.top_k` and `top_k` are one value."""
    latent = fields.latent or LatentFields()
    top_k = latent.top_k or fields.top_k
    if top_k is None:
        top_k = min(settings.top_k, settings.max_top_k)
    elif top_k < 1:
        top_k = settings.max_top_k
    if top_k > settings.max_top_k:
        param = "latent.top_k" if latent.top_k else "top_k"
        raise BadRequest(f"{param} may be {settings.max_top_k} at most (LEPO_MAX_TOP_K).", param=param)
    return Sampling(
        latent_length=length,
        tau=settings.latent_tau if latent.tau is None else latent.tau,
        temperature=settings.temperature if fields.temperature is None else float(fields.temperature),
        top_k=top_k,
        top_p=settings.top_p if fields.top_p is None else float(fields.top_p),
        seed=seed,
        draws=settings.latent_draws if latent.draws is None else latent.draws,
        min_p=float(fields.min_p or 0),
    )


def first_seed(fields: GenerationFields) -> int:
    """Seed of choice 0: the caller's, folded into the engine's range, or a fresh one."""
    return secrets.randbelow(SEEDS) if fields.seed is None else fields.seed % SEEDS
