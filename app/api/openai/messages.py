"""Messages of a conversation as they arrive, and as a chat template takes them."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from app.api.http.fields import Text, only, storable_json
from app.errors import BadRequest

MOST_CALLS = 128  # of one message


class Loose(BaseModel):
    """A part of a conversation; further fields, such as those of an earlier answer sent back, are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


def check_arguments(text: str) -> str:
    """Let the arguments of a call through, if what they say can be stored.

    Raises:
        PydanticCustomError: they are JSON that holds U+0000, half of a surrogate pair, or too many levels.

    """
    try:
        value = json.loads(text)
    except ValueError:
        return text  # models err; what was said is shown to them as it was
    except RecursionError as error:
        raise PydanticCustomError("invalid_value", "must not be nested so deep") from error
    storable_json({"arguments": value})
    return text


class TextPart(Loose):
    """One part of a message; only text is understood."""

    type: Literal["text"]
    text: Text


class CalledFunction(Loose):
    """What was called, with what."""

    name: Annotated[Text, Field(min_length=1, max_length=256)]
    arguments: Annotated[Text, AfterValidator(check_arguments)]


class ToolCall(Loose):
    """One call in an earlier answer."""

    id: Annotated[Text, Field(min_length=1, max_length=256)]
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Loose):
    """One message."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: list[TextPart] | Text | None = None
    name: Text | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MOST_CALLS)] | None = None
    tool_call_id: Annotated[Text, Field(max_length=256)] | None = None
    function_call: Annotated[Any, only()] = None

    @property
    def text(self) -> str:
        """The content as one text; parts stand on lines of their own."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""

    def for_template(self) -> dict[str, Any]:
        """Show the chat template what it needs."""
        shown: dict[str, Any] = {"role": self.role, "content": self.text}
        if self.name is not None:
            shown["name"] = self.name
        if self.role == "assistant" and self.tool_calls:
            shown["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        if self.role == "tool":
            shown["tool_call_id"] = self.tool_call_id
        return shown


def for_template(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Show the chat template a conversation.

    Raises:
        BadRequest: a result of a tool belongs to no call before it.

    """
    called: set[str] = set()
    for place, message in enumerate(messages):
        called.update(call.id for call in message.tool_calls or ())
        if message.role == "tool" and message.tool_call_id not in called:
            param = f"messages[{place}].tool_call_id"
            words = f"{param} must be the id of a call in an assistant's message before it."
            raise BadRequest(words, param=param)
    return [message.for_template() for message in messages]
