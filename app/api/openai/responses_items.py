"""The items of the Responses API: a conversation as a list of messages, calls and results, and flat tools.

They are brought into the chat API's terms, which the rest of the server knows. Leaves out images, files, audio and what
only OpenAI's own servers can run: such input is refused, such tools are ignored.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from app.api.http.fields import Text
from app.api.openai.messages import CalledFunction, Loose
from app.api.openai.tools import MOST_TOOLS, Function
from app.errors import BadRequest


class Part(Loose):
    """One part of a message or of a result; only text is understood."""

    type: Literal["input_text", "output_text", "text", "refusal"]
    text: Text | None = None
    refusal: Text | None = None


class Item(Loose):
    """One item of `input`; a message may leave out its type."""

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: list[Part] | Text | None = None
    call_id: Annotated[Text, Field(min_length=1, max_length=256)] | None = None
    name: Text | None = None
    arguments: Text | None = None
    output: list[Part] | Text | None = None


def messages_of(items: Sequence[Item], instructions: str | None) -> list[dict[str, Any]]:
    """Write a conversation as chat messages; calls side by side are one message of the assistant's.

    Raises:
        BadRequest: an item lacks something, or is the result of no call before it; `param` names it.

    """
    messages: list[dict[str, Any]] = [{"role": "system", "content": instructions}] if instructions else []
    called: set[str] = set()
    for place, item in enumerate(items):
        if item.type == "message":
            messages.append({"role": needed(item.role, place, "role"), "content": text_of(item.content)})
        elif item.type == "function_call":
            call = call_of(item, place)
            called.add(call["id"])
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": ""})
            messages[-1].setdefault("tool_calls", []).append(call)
        elif item.type == "function_call_output":
            call_id = needed(item.call_id, place, "call_id")
            if call_id not in called:
                param = f"input[{place}].call_id"
                raise BadRequest(f"{param} must be that of a function_call item before it.", param=param)
            output = text_of(needed(item.output, place, "output"))
            messages.append({"role": "tool", "content": output, "tool_call_id": call_id})
    if not messages:
        raise BadRequest("input holds no message; send at least one.", param="input")
    return messages


def call_of(item: Item, place: int) -> dict[str, Any]:
    """Write a call as chat messages hold it.

    Raises:
        BadRequest: it lacks something.

    """
    given = {"name": needed(item.name, place, "name"), "arguments": needed(item.arguments, place, "arguments")}
    try:
        function = CalledFunction.model_validate(given)
    except ValidationError as error:
        param = f"input[{place}].{error.errors()[0]['loc'][0]}"
        raise BadRequest(f"{param}: {error.errors()[0]['msg']}.", param=param) from error
    return {"id": needed(item.call_id, place, "call_id"), "type": "function", "function": function.model_dump()}


def needed(value: Any, place: int, field: str) -> Any:
    """Give what an item must have.

    Raises:
        BadRequest: it lacks it.

    """
    if value is None:
        param = f"input[{place}].{field}"
        raise BadRequest(f"{param} is missing.", param=param, code="missing_required_parameter")
    return value


def text_of(content: list[Part] | str | None) -> str:
    """Read a content as one text; parts stand on lines of their own."""
    if isinstance(content, list):
        return "\n".join(part.text or part.refusal or "" for part in content)
    return content or ""


def functions_of(tools: Sequence[dict[str, Any]]) -> list[Function]:
    """Read the functions among tools; what only other servers can run (web search, files) is ignored.

    Raises:
        BadRequest: a function is not one; `param` names the field.

    """
    if len(tools) > MOST_TOOLS:
        raise BadRequest(f"tools takes at most {MOST_TOOLS} tools.", param="tools")
    functions: list[Function] = []
    for place, tool in enumerate(tools):
        if tool.get("type") != "function":
            continue
        try:
            functions.append(Function.model_validate({key: tool[key] for key in Function.model_fields if key in tool}))
        except ValidationError as error:
            param = ".".join([f"tools[{place}]", *map(str, error.errors()[0]["loc"])])
            raise BadRequest(f"{param}: {error.errors()[0]['msg']}.", param=param) from error
    if len({function.name for function in functions}) < len(functions):
        raise BadRequest("tools must not hold two functions of one name.", param="tools")
    return functions
