"""Tools as chat requests offer them, and `tool_choice`: what they become for the model.

Leaves out the flat form of the Responses API (`responses_items`), and reading calls from an answer (`app.chat`).
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from app.api.answering.checks import checked
from app.api.answering.constraint import constraint_for_lark
from app.api.answering.generation import GenerationFields
from app.api.http.fields import JsonObject, Strict, Text
from app.api.server import Server
from app.chat.calls import CallReader
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

    def for_template(self) -> dict[str, Any]:
        """Show it as chat templates know it."""
        parameters = self.parameters or {"type": "object", "properties": {}}
        told = {"name": self.name, "description": self.description or "", "parameters": parameters}
        return {"type": "function", "function": told}


class Tool(Strict):
    """One tool of a chat request."""

    type: Literal["function"]
    function: Function


def check_tools(tools: list[Tool]) -> list[Tool]:
    """Bound the tools of a request.

    Raises:
        PydanticCustomError: too many, or two of one name.

    """
    if len(tools) > MOST_TOOLS:
        raise PydanticCustomError("invalid_value", f"takes at most {MOST_TOOLS} tools")
    if len({tool.function.name for tool in tools}) < len(tools):
        raise PydanticCustomError("invalid_value", "must not hold two functions of one name")
    return tools


def check_choice(value: Any) -> Any:
    """Let `tool_choice` through: a word, or one function in either API's form.

    Raises:
        PydanticCustomError: it is neither.

    """
    if value is None or (isinstance(value, str) and value in {"none", "auto", "required"}):
        return value
    if isinstance(value, Mapping) and value.get("type") == "function":
        inside = value.get("function", value)
        if isinstance(inside, Mapping) and isinstance(inside.get("name"), str):
            return value
    raise PydanticCustomError("invalid_value", "must be none, auto, required, or one function by its name")


def legacy(value: Any) -> Any:
    """Refuse the form that tools had before they were tools.

    Raises:
        PydanticCustomError: it is used.

    """
    if value in (None, [], "none", "auto"):
        return value
    raise PydanticCustomError(
        "unsupported_parameter", "is the legacy form of tools, which this server does not take; send tools instead"
    )


NAMED = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
FUNCTION = {"type": {"const": "function"}}
CHOSEN = (  # one function, as the two APIs name it
    {"type": "object", "required": ["type", "function"], "properties": {**FUNCTION, "function": NAMED}},
    {**NAMED, "required": ["type", "name"], "properties": {**FUNCTION, "name": {"type": "string"}, "function": False}},
)
Tools = Annotated[list[Tool], AfterValidator(check_tools), Field(json_schema_extra={"maxItems": MOST_TOOLS})]
ToolChoice = Annotated[
    Any,
    AfterValidator(check_choice),
    WithJsonSchema({"anyOf": [{"enum": [None, "none", "auto", "required"]}, *CHOSEN]}),
]
Legacy = Annotated[Any, AfterValidator(legacy), WithJsonSchema({"enum": [None, [], "none", "auto"]})]


def toolbox(functions: Sequence[Function], choice: Any, *, parallel: bool | None) -> Toolbox:
    """Put together what may be called.

    Args:
        functions: that are offered.
        choice: as `check_choice` let it through.
        parallel: `parallel_tool_calls`; None: as many as the model likes.

    Raises:
        BadRequest: a call is wanted and there is nothing to call, or not what is named.

    """
    named = None
    if isinstance(choice, Mapping):
        named = choice.get("function", choice)["name"]
        if all(function.name != named for function in functions):
            raise BadRequest(f"tool_choice names {named!r}, which is not among tools.", param="tool_choice")
    if choice == "required" and not functions:
        raise BadRequest("tool_choice is required, and there are no tools to call.", param="tool_choice")
    settled: Literal["none", "auto", "required"] = "auto"
    if named is not None or choice == "required":
        settled = "required"
    elif choice == "none":
        settled = "none"
    several = parallel is not False and named is None
    return Toolbox(tuple(function.for_template() for function in functions), settled, named, several)


async def constraint_of(server: Server, fields: GenerationFields, box: Toolbox) -> Constraint | None:
    """Give what an answer must be as far as calls are concerned, compiled; None: they ask for nothing.

    A call that is required leaves no words for `response_format` to form. Where the model is free to call, it calls or
    its words have that form.

    Raises:
        BadRequest: this server reads no calls, another field asks for another form, or a schema cannot be followed.
        Unavailable: too many wait for theirs.

    """
    dialect, required = server.prompts.template.dialect, box.choice == "required"
    words = None if required or fields.response_format is None else fields.response_format.form
    if not required and (words is None or not box.names or dialect is None or fields.structured_outputs is not None):
        return None
    if fields.structured_outputs is not None:
        told = "tool_choice requires a call, so the answer can have no other form; send one of the two."
        raise BadRequest(told, param="tool_choice")
    if dialect is None:
        told = "This server reads no tool calls (LEPO_TOOL_PARSER=none); tool_choice may be none or auto."
        raise BadRequest(told, param="tool_choice")
    grammar = grammar_of_calls(box, dialect, server.prompts.template.mark_tokens(), words)
    return await checked(server, fields, constraint_for_lark(grammar), "tool_choice" if required else "response_format")


def reader_of(server: Server, box: Toolbox) -> CallReader | None:
    """Begin to read an answer that may hold calls; None: it holds none."""
    dialect = server.prompts.template.dialect
    return CallReader(dialect, box.names, parallel=box.parallel) if dialect is not None and box.names else None


def marks_of(server: Server, box: Toolbox) -> dict[int, str]:
    """Give the special tokens that an answer's text must show, so that its calls can be read."""
    return server.prompts.template.marks_by_id if box.names else {}
