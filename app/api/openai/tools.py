"""Tools as requests offer them, and `tool_choice`: what they become for the model.

Leaves out the flat form of the Responses API (`responses_body`), and reading calls from an answer (`app.chat`).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from app.api.answering.constraint import constraint_for_lark
from app.api.http.fields import JsonObject, Strict, Text
from app.chat.dialects import ToolDialect
from app.chat.grammar import grammar_of_calls
from app.chat.tools import Toolbox
from app.engine.constraint import Constraint
from app.errors import BadRequest

MOST_TOOLS = 128
ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class Function(Strict):
    """A function that the model may call."""

    name: ToolName
    description: Text | None = None
    parameters: JsonObject | None = Field(None, description="A JSON schema of its arguments; left out: there are none.")
    strict: bool | None = Field(None, description="Taken; arguments follow the schema where a call is required.")


class Tool(Strict):
    """One tool of a chat request."""

    type: Literal["function"]
    function: Function

    def for_template(self) -> dict[str, Any]:
        """Show it as chat templates know it."""
        return {"type": "function", "function": shown_function(self.function)}


def shown_function(function: Function) -> dict[str, Any]:
    """Write a function as chat templates know it."""
    parameters = function.parameters or {"type": "object", "properties": {}}
    return {"name": function.name, "description": function.description or "", "parameters": parameters}


def legacy(value: Any) -> Any:
    """Refuse the form of tools that came before tools.

    Raises:
        PydanticCustomError: it is used.

    """
    if value in (None, [], "none", "auto"):
        return value
    raise PydanticCustomError(
        "unsupported_parameter", "is the legacy form of tools, which this server does not take; send tools"
    )


def check_names(tools: Sequence[Any] | None) -> Sequence[Any] | None:
    """Bound the tools of a request.

    Raises:
        PydanticCustomError: too many, or two of one name.

    """
    if tools is not None and len(tools) > MOST_TOOLS:
        raise PydanticCustomError("invalid_value", f"takes at most {MOST_TOOLS} tools")
    names = [tool.function.name for tool in tools or () if isinstance(tool, Tool)]
    if len(set(names)) < len(names):
        raise PydanticCustomError("invalid_value", "must not hold two functions of one name")
    return tools


class NamedFunction(Strict):
    """Which function."""

    name: ToolName


class NamedTool(Strict):
    """A call of this one function is required."""

    type: Literal["function"]
    function: NamedFunction


Tools = Annotated[list[Tool], AfterValidator(check_names)]
Choice = Literal["none", "auto", "required"]


def toolbox(tools: Sequence[Mapping[str, Any]], choice: Choice | str | None, *, named: str | None, parallel: bool) -> Toolbox:
    """Put together what may be called.

    Raises:
        BadRequest: a call is wanted and there is nothing to call, or not what is named.

    """
    if named is not None and all(tool["function"]["name"] != named for tool in tools):
        raise BadRequest(f"tool_choice names {named!r}, which is not among tools.", param="tool_choice")
    if choice == "required" and not tools:
        raise BadRequest("tool_choice is required, and there are no tools to call.", param="tool_choice")
    if named is not None:
        return Toolbox(tuple(tools), "required", named, parallel)
    settled: Choice = "none" if choice == "none" else "required" if choice == "required" else "auto"
    return Toolbox(tuple(tools), settled, None, parallel)


def constraint_of(box: Toolbox, dialect: ToolDialect | None, mark_ids: Mapping[str, int]) -> Constraint | None:
    """Say what form an answer must have so that it is a call; None: any.

    Raises:
        BadRequest: this server reads no calls.

    """
    if box.choice != "required":
        return None
    if dialect is None:
        words = "This server reads no tool calls (LEPO_TOOL_PARSER=none); tool_choice may be none or auto."
        raise BadRequest(words, param="tool_choice")
    return constraint_for_lark(grammar_of_calls(box, dialect, mark_ids))
