"""The fields that say what an answer's text must be: OpenAI's `response_format` and vLLM's `structured_outputs`.

Leaves out compiling (`app.api.answering.constraint`) and what tool calls look like.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from app.api.answering.constraint import (
    constraint_for_choices,
    constraint_for_json_schema,
    constraint_for_lark,
    constraint_for_regex,
)
from app.api.http.fields import JsonObject, Strict, Text, storable_json
from app.chat.schemas import closed
from app.engine.constraint import Constraint

MOST_CHOICES: Final = 1024
MOST_NODES: Final = 4096  # values of a schema: what it means may grow with their square

SCHEMA_OR_TEXT: Final = WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "string"}, {"type": "null"}]})
CHECKED = ConfigDict(serialize_by_alias=True)  # `schema` and `json` are names that pydantic has taken


def bounded_schema(value: dict[str, Any]) -> dict[str, Any]:
    """Let a JSON Schema through that is small enough to be looked at.

    Raises:
        PydanticCustomError: it has too many parts.

    """
    pending: list[Any] = [value]
    seen = 0
    while pending:
        node = pending.pop()
        seen += 1
        if seen > MOST_NODES:
            raise PydanticCustomError("invalid_value", f"has more than {MOST_NODES} parts; send a smaller schema")
        if isinstance(node, dict):
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)
    return value


def parsed_schema(value: Any) -> dict[str, Any]:
    """Read a schema that came as an object or as its text.

    Raises:
        PydanticCustomError: it is neither, or too large.

    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise PydanticCustomError("invalid_value", "is not JSON; send the schema as an object") from error
    if not isinstance(value, dict):
        raise PydanticCustomError("invalid_value", "must be a JSON Schema: an object")
    return bounded_schema(storable_json(value))


class JsonSchema(Strict):
    """`response_format.json_schema`."""

    model_config = CHECKED

    name: Annotated[Text, Field(max_length=64)]
    schema_: Annotated[JsonObject, AfterValidator(bounded_schema)] = Field(alias="schema")
    description: Text | None = None
    strict: bool | None = Field(None, description="Taken; answers always keep to the schema.")


class ResponseFormat(Strict):
    """`response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @property
    def form(self) -> Mapping[str, Any] | None:
        """The JSON schema that the text keeps to; None: any text."""
        if self.json_schema is not None:
            return closed(self.json_schema.schema_)
        return {"type": "object"} if self.type == "json_object" else None

    @model_validator(mode="after")
    def complete(self) -> "ResponseFormat":
        """Require the schema where it is wanted, and only there."""
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise PydanticCustomError("invalid_value", "json_schema belongs to type: json_schema, and only there")
        return self


class StructuredOutputs(Strict):
    """`structured_outputs`: one of four ways to say what the text must be."""

    model_config = CHECKED

    json_: Annotated[Any, AfterValidator(parsed_schema), SCHEMA_OR_TEXT] = Field(
        None, alias="json", description="A JSON Schema."
    )
    regex: Annotated[Text, Field(min_length=1)] | None = Field(None, description="In Rust's dialect.")
    choice: Annotated[list[Text], Field(min_length=1, max_length=MOST_CHOICES)] | None = None
    grammar: Annotated[Text, Field(min_length=1)] | None = Field(None, description="In llguidance's Lark.")

    @model_validator(mode="after")
    def one(self) -> "StructuredOutputs":
        """Require one way."""
        given = [way for way in (self.json_, self.regex, self.choice, self.grammar) if way is not None]
        if len(given) != 1:
            raise PydanticCustomError("invalid_value", "takes one of json, regex, choice and grammar")
        return self

    def constraint(self) -> tuple[Constraint, str]:
        """Give the constraint, and the field that it came from."""
        if self.json_ is not None:
            return constraint_for_json_schema(self.json_), "structured_outputs.json"
        if self.regex is not None:
            return constraint_for_regex(self.regex), "structured_outputs.regex"
        if self.choice is not None:
            return constraint_for_choices(self.choice), "structured_outputs.choice"
        assert self.grammar is not None
        return constraint_for_lark(self.grammar), "structured_outputs.grammar"


def constraint_of(format_: ResponseFormat | None, outputs: StructuredOutputs | None) -> tuple[Constraint, str] | None:
    """Give what the two fields ask for, and the field to name when it cannot be served; None: any text."""
    if outputs is not None:
        return outputs.constraint()
    if format_ is None or format_.form is None:
        return None
    param = "response_format" if format_.json_schema is None else "response_format.json_schema.schema"
    return constraint_for_json_schema(format_.form), param


NULL: Final = WithJsonSchema({"type": "null"})


def instead(way: str) -> AfterValidator:
    """Refuse a field of older vLLM servers by saying what has taken its place."""

    def check(value: Any) -> Any:
        if value is not None:
            raise PydanticCustomError("unsupported_parameter", f"is not served; send {way}")
        return value

    return AfterValidator(check)


class FormatFields(BaseModel):
    """The fields, as every face of the API takes them."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None

    guided_json: Annotated[Any, instead("structured_outputs.json"), NULL] = None
    guided_regex: Annotated[Any, instead("structured_outputs.regex"), NULL] = None
    guided_choice: Annotated[Any, instead("structured_outputs.choice"), NULL] = None
    guided_grammar: Annotated[Any, instead("structured_outputs.grammar"), NULL] = None
