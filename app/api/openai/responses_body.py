"""The body of `POST /v1/responses`, and what of it this server cannot do.

The server keeps no conversations: who wants to go on sends the items again. Fields that would change the answer and are
not served are accepted at values that change nothing, as the clients' defaults are.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from app.api.answering.formats import CHECKED, NULL, JsonSchema, ResponseFormat, bounded_schema
from app.api.answering.generation import COUNTS, GenerationFields
from app.api.http.fields import JsonObject, Strict, Text, example, only
from app.api.openai.responses_items import Item, functions_of, messages_of
from app.api.openai.tools import ToolChoice, toolbox
from app.chat.tools import Toolbox
from app.errors import BadRequest

HERE_NEVER: Final = (  # what clients ask to be included, and no answer of this server has
    *("reasoning.encrypted_content", "file_search_call.results", "web_search_call.results"),
    *("web_search_call.action.sources", "code_interpreter_call.outputs", "message.input_image.image_url"),
    "computer_call_output.output.image_url",
)
INCLUDE: Final = {"anyOf": [{"type": "array", "items": {"enum": list(HERE_NEVER)}}, {"type": "null"}]}
REASONING: Final = {
    "anyOf": [{"type": "object", "additionalProperties": {"enum": [None, "medium", "auto"]}}, {"type": "null"}]
}
CHAT_FIELDS: Final = {"max_tokens": "max_output_tokens", "max_completion_tokens": "max_output_tokens"}


def stateless(value: Any) -> Any:
    """Refuse to go on from what this server does not keep.

    Raises:
        PydanticCustomError: it is asked for.

    """
    if value is None:
        return value
    raise PydanticCustomError(
        "unsupported_parameter", "is not served: this server keeps no conversations; send the items before in input"
    )


def check_include(value: list[str] | None) -> list[str] | None:
    """Let `include` through where it asks for nothing that there could be.

    Raises:
        PydanticCustomError: it asks for something else.

    """
    other = next((one for one in value or () if one not in HERE_NEVER), None)
    if other is not None:
        raise PydanticCustomError("unsupported_parameter", f"{other[:80]!r} is not served; leave it out")
    return value


def check_reasoning(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """Let `reasoning` through where it changes nothing: how far to reason is `latent.length` here.

    Raises:
        PydanticCustomError: it asks for an effort.

    """
    for key, given in (value or {}).items():
        if given not in (None, "medium", "auto"):
            raise PydanticCustomError(
                "unsupported_parameter",
                f"{key[:80]} is not served at {given!r}; say how far to reason by latent.length",
            )
    return value


class TextFormat(Strict):
    """`text.format`."""

    model_config = CHECKED

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[Text, Field(max_length=64)] | None = None
    schema_: Annotated[JsonObject, AfterValidator(bounded_schema)] | None = Field(None, alias="schema")
    description: Text | None = None
    strict: bool | None = Field(None, description="Taken; answers always keep to the schema.")

    @model_validator(mode="after")
    def complete(self) -> "TextFormat":
        """Require the schema where it is wanted, and only there."""
        if (self.type == "json_schema") != (self.schema_ is not None):
            raise PydanticCustomError("invalid_value", "schema belongs to type: json_schema, and only there")
        return self

    @property
    def in_chat(self) -> ResponseFormat:
        """The same as the chat API says it."""
        if self.schema_ is None:
            return ResponseFormat(type=self.type)
        return ResponseFormat(type=self.type, json_schema=JsonSchema(name=self.name or "", schema=self.schema_))


class TextFields(Strict):
    """`text`."""

    format: TextFormat | None = None
    verbosity: Annotated[Any, only("medium")] = None


class ResponseBody(GenerationFields):
    """The body of a request for a response."""

    model_config = example(model="lepo", input="Work out 47 + 6 - 8 + 9.", max_output_tokens=64)

    input: list[Item] | Text
    instructions: Text | None = None
    max_output_tokens: int | None = Field(None, ge=1, lt=COUNTS, description="Latent steps and tokens together.")
    tools: list[JsonObject] | None = None
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool | None = Field(None, description="False: an answer holds one call at most.")
    text: TextFields | None = None

    previous_response_id: Annotated[Any, AfterValidator(stateless), NULL] = None
    conversation: Annotated[Any, AfterValidator(stateless), NULL] = None
    background: Annotated[Any, only(False)] = None
    reasoning: Annotated[dict[str, Any] | None, AfterValidator(check_reasoning), WithJsonSchema(REASONING)] = None
    include: Annotated[list[str] | None, AfterValidator(check_include), WithJsonSchema(INCLUDE)] = None
    truncation: Annotated[Any, only("disabled")] = None
    top_logprobs: Annotated[Any, only(0)] = None
    max_tool_calls: Annotated[Any, only()] = None
    prompt: Annotated[Any, only()] = None

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation as chat messages.

        Raises:
            BadRequest: an item is not one.

        """
        items = [Item(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        return messages_of(items, self.instructions)

    @property
    def box(self) -> Toolbox:
        """What the answer may call."""
        return toolbox(functions_of(self.tools or ()), self.tool_choice, parallel=self.parallel_tool_calls)

    def in_chat(self) -> "ResponseBody":
        """Say the limits and the form in the chat API's fields, which the rest of the server reads.

        Raises:
            BadRequest: a field belongs to the chat API.

        """
        for name, instead in CHAT_FIELDS.items():
            if getattr(self, name) is not None:
                raise BadRequest(f"{name} belongs to chat; send {instead}.", param=name, code="unknown_parameter")
        if self.choices != 1:
            raise BadRequest("n may be 1 only: a response is one answer.", param="n")
        wanted = None if self.text is None or self.text.format is None else self.text.format.in_chat
        if wanted is not None and self.response_format is not None:
            raise BadRequest("Send text.format or response_format, not both.", param="text.format")
        changed = {"max_completion_tokens": self.max_output_tokens, "response_format": wanted or self.response_format}
        return self.model_copy(update=changed)
