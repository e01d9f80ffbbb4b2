"""Plain completions as models: a `text_completion`, whole or as a chunk. Written by `whole` and `completion_chunks`."""

from typing import Literal

from pydantic import Field

from app.api.http.shapes import Shape
from app.api.openai.shapes import Stored, Usage

Finish = Literal["stop", "length", "abort"]


class TextLogprobs(Shape):
    """Log-probabilities of a text's tokens."""

    tokens: list[str]
    token_logprobs: list[float | None] = Field(description="Null for the first token of an echoed prompt.")
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(Stored):
    """One text of a response."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Finish
    reasoning: str | None = Field(None, description="A reading of the latent steps; not part of the text.")
    token_ids: list[int] | None = Field(None, description="With `return_token_ids`.")
    prompt_token_ids: list[int] | None = Field(None, description="With `return_token_ids`.")


class TextCompletion(Shape):
    """A response in one piece."""

    id: str = Field(examples=["cmpl-0198c5f3a1b27c4d8e9f0a1b2c3d4e5f"])
    object: Literal["text_completion"]
    created: int = Field(description="Unix seconds.")
    model: str
    choices: list[TextChoice]
    usage: Usage


class TextChunkChoice(Stored):
    """What is new of one text."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Finish | None
    reasoning: str | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class TextCompletionChunk(Shape):
    """`data` of an event; the last one's is `[DONE]`, and before that of a stream that cannot go on an error."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChunkChoice]
    usage: Usage | None = None
