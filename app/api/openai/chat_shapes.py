"""Chat answers as models: a `chat.completion`, and the chunks of a stream. Written by `whole` and `chat_chunks`."""

from typing import Literal

from pydantic import Field

from app.api.http.shapes import Shape
from app.api.openai.shapes import Stored, Usage

Finish = Literal["stop", "length", "tool_calls", "abort"]


class TopLogprob(Shape):
    """One candidate for a token."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token with its likeliest rivals."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Shape):
    """Log-probabilities of an answer's tokens."""

    content: list[TokenLogprob]
    refusal: None


class FunctionCalled(Shape):
    """What was called, with what."""

    name: str
    arguments: str = Field(description="JSON as the model wrote it.")


class ToolCalled(Shape):
    """One call."""

    id: str
    type: Literal["function"]
    function: FunctionCalled


class ChatMessage(Shape):
    """An answer."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ToolCalled] | None = None
    reasoning: str | None = Field(None, description="A reading of the latent steps; not part of the answer.")
    reasoning_content: str | None = Field(None, description="The same.")


class ChatChoice(Stored):
    """One answer of a response."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Finish
    token_ids: list[int] | None = Field(None, description="With `return_token_ids`.")


class ChatCompletion(Shape):
    """A response in one piece."""

    id: str = Field(examples=["chatcmpl-0198c5f3a1b27c4d8e9f0a1b2c3d4e5f"])
    object: Literal["chat.completion"]
    created: int = Field(description="Unix seconds.")
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] | None = Field(None, description="With `return_token_ids`.")


class FunctionPiece(Shape):
    """A piece of a call."""

    name: str | None = None
    arguments: str


class ToolPiece(Shape):
    """A piece of a call; its id and name come first."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionPiece


class ChatDelta(Shape):
    """What is new."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolPiece] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class ChatChunkChoice(Stored):
    """What is new of one answer; `interaction_id` and the like come with its end."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: Finish | None
    token_ids: list[int] | None = None


class ChatCompletionChunk(Shape):
    """`data` of an event; the last one's is `[DONE]`, and before that of a stream that cannot go on an error."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    prompt_token_ids: list[int] | None = Field(None, description="With `return_token_ids`: in the first chunk.")
