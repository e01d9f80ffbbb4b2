"""What the routes of OpenAI's API send beside answers: models, tokens, usage; and what all answers carry.

Answers themselves: `chat_shapes`, `completion_shapes`, `responses_shapes`.
"""

from typing import Literal

from pydantic import Field

from app.api.http.shapes import AnswerId, SessionId, Shape


class Model(Shape):
    """The model that is served."""

    id: str
    object: Literal["model"]
    created: int = Field(description="Unix seconds.")
    owned_by: str
    root: str = Field(description="As LEPO_MODEL names it.")
    max_model_len: int
    policy_version: int = Field(description="That new answers start on.")


class Models(Shape):
    """Every model; there is one."""

    object: Literal["list"]
    data: list[Model]


class Tokens(Shape):
    """A prompt in token ids."""

    tokens: list[int]
    count: int
    max_model_len: int
    token_strs: list[str] | None = Field(description="With `return_token_strs`.")


class PromptOfTokens(Shape):
    """Token ids in text."""

    prompt: str


class Tokenizer(Shape):
    """The tokenizer."""

    tokenizer_class: str
    vocab_size: int
    model_max_length: int
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    chat_template: str | None


class UsageDetails(Shape):
    """Of `completion_tokens`."""

    reasoning_tokens: int = Field(description="Latent steps.")


class Usage(Shape):
    """Tokens counted."""

    prompt_tokens: int
    completion_tokens: int = Field(description="Latent steps and tokens.")
    total_tokens: int
    completion_tokens_details: UsageDetails | None = Field(None, description="Not where nothing was generated.")


class Stored(Shape):
    """What an answer carries beside OpenAI's fields, once it is stored."""

    interaction_id: AnswerId | None = Field(None, description="For grades. Null with `store: false`.")
    policy_version: int | None = Field(None, description="Of the policy that gave it.")
    session_id: SessionId | None = None
    turn: int | None = Field(None, description="Its number in the session, from 1.")
    stop_reason: str | None = Field(None, description="What cut an answer short (`finish_reason: abort`).")
