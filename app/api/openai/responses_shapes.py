"""The Responses API's answers as models: a response and the events of a stream. Written by `responses_events`."""

from typing import Annotated, Any, Literal

from pydantic import Field, RootModel

from app.api.http.shapes import Object, Shape
from app.api.openai.shapes import Stored

Status = Literal["in_progress", "completed", "incomplete", "failed"]


class OutputText(Shape):
    """A text as a part of a message."""

    type: Literal["output_text"]
    text: str
    annotations: list[Object]
    logprobs: list[Object]


class OutputMessage(Shape):
    """What was said."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[OutputText]


class OutputCall(Shape):
    """A call of a function."""

    id: str
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    status: Literal["in_progress", "completed"]


OutputItem = Annotated[OutputMessage | OutputCall, Field(discriminator="type")]


class InputDetails(Shape):
    """Of `input_tokens`."""

    cached_tokens: int


class OutputDetails(Shape):
    """Of `output_tokens`."""

    reasoning_tokens: int = Field(description="Latent steps.")


class ResponseUsage(Shape):
    """Tokens counted."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseError(Shape):
    """Why a response failed."""

    code: str
    message: str


class Incomplete(Shape):
    """Why a response is incomplete."""

    reason: str = Field(examples=["max_output_tokens"])


class Reasoning(Shape):
    """How far to reason is `latent.length` here."""

    effort: None
    summary: None


class ResponseText(Shape):
    """The form of the text."""

    format: Object


class ResponseAnswer(Stored):
    """A response."""

    id: str = Field(examples=["resp_0198c5f3a1b27c4d8e9f0a1b2c3d4e5f"])
    object: Literal["response"]
    created_at: int = Field(description="Unix seconds.")
    status: Status
    background: Literal[False]
    error: ResponseError | None
    incomplete_details: Incomplete | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: None
    reasoning: Reasoning
    service_tier: Literal["default"]
    store: bool
    temperature: float
    text: ResponseText
    tool_choice: Any = Field(description="As it was asked.")
    tools: list[Object]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None


class Event(Shape):
    """What every event has."""

    sequence_number: int = Field(description="From 0.")


class ResponseEvent(Event):
    """The response as it is by now; the last event of a stream is one of these."""

    type: Literal[
        "response.created", "response.in_progress", "response.completed", "response.incomplete", "response.failed"
    ]
    response: ResponseAnswer


class ItemEvent(Event):
    """An item begins or ends."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class PartEvent(Event):
    """A part of a message begins or ends."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    item_id: str
    output_index: int
    content_index: int
    part: OutputText


class TextDelta(Event):
    """New text."""

    type: Literal["response.output_text.delta"]
    item_id: str
    output_index: int
    content_index: int
    delta: str
    logprobs: list[Object]


class TextDone(Event):
    """A text ends."""

    type: Literal["response.output_text.done"]
    item_id: str
    output_index: int
    content_index: int
    text: str
    logprobs: list[Object]


class ArgumentsDelta(Event):
    """New arguments of a call."""

    type: Literal["response.function_call_arguments.delta"]
    item_id: str
    output_index: int
    delta: str


class ArgumentsDone(Event):
    """The arguments of a call end."""

    type: Literal["response.function_call_arguments.done"]
    item_id: str
    output_index: int
    name: str
    arguments: str


class ResponseStreamEvent(
    RootModel[
        Annotated[
            ResponseEvent | ItemEvent | PartEvent | TextDelta | TextDone | ArgumentsDelta | ArgumentsDone,
            Field(discriminator="type"),
        ]
    ]
):
    """`data` of an event, whose name is its `type`."""
