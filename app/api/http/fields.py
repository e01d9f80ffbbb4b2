"""Types of request fields that several schemas share: strict models, and text that can be stored.

Postgres keeps neither U+0000 nor half of a surrogate pair, and JSON can carry both: such text is refused here by name,
before anything is computed. Leaves out the schemas themselves (one file per route).
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

MAX_DEPTH = 32
LARGEST = 2**63 - 1


def counted(value: Any) -> Any:
    """Take a whole number that was written with a point: in JSON 5.0 is one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


COUNTED: Final = BeforeValidator(counted)  # behind the bounds: Annotated[int, Field(ge=0), COUNTED]


class Strict(BaseModel):
    """A request body: unknown fields, coerced types and non-finite numbers are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True, protected_namespaces=())


def example(**fields: Any) -> ConfigDict:
    """Show what a body may look like."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


def storable(text: str) -> str:
    """Let text through that Postgres and a tokenizer can take.

    Raises:
        PydanticCustomError: it holds U+0000 or a lone surrogate.

    """
    if "\x00" in text:
        raise PydanticCustomError("invalid_text", "text must not hold U+0000; remove it")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PydanticCustomError(
                "invalid_text", "text holds half of a surrogate pair; send whole characters"
            ) from error
    return text


def storable_json(value: dict[str, Any]) -> dict[str, Any]:
    """Let a free-form object through whose every text, number and depth can be stored.

    Raises:
        PydanticCustomError: a text or number is not storable, or it is nested too deep.

    """
    pending: list[tuple[Any, int]] = [(value, 1)]
    while pending:
        node, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise PydanticCustomError("invalid_value", f"must not be nested deeper than {MAX_DEPTH}")
        if isinstance(node, str):
            storable(node)
        elif isinstance(node, float) and not -1e300 < node < 1e300:
            raise PydanticCustomError("invalid_value", "numbers must be finite")
        elif isinstance(node, int) and not -LARGEST <= node <= LARGEST:
            raise PydanticCustomError("invalid_value", "whole numbers must fit in 64 bits")
        elif isinstance(node, dict):
            pending.extend((item, depth + 1) for pair in node.items() for item in pair)
        elif isinstance(node, list):
            pending.extend((item, depth + 1) for item in node)
    return value


@dataclass(frozen=True, slots=True)
class Only:
    """Accepts a field only at values that change nothing, because this server does not implement it."""

    neutral: tuple[Any, ...]  # beside null

    def __call__(self, value: Any) -> Any:
        """Let a value through, or say what to do instead."""
        if value is None or any(value == allowed and type(value) is type(allowed) for allowed in self.neutral):
            return value
        shown = ", ".join(map(repr, self.neutral))
        raise PydanticCustomError(
            "unsupported_parameter",
            "is not supported by this server; leave it out" + (f" or at {shown}" if shown else ""),
        )

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check what the field's type lets through."""
        return core_schema.no_info_after_validator_function(self, handler(source))

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe it."""
        return {"enum": [None, *self.neutral], "description": "Not served; taken where it changes nothing."}


def only(*neutral: Any) -> Only:
    """Accept a field only at values that change nothing, because this server does not implement it."""
    return Only(neutral)


NO_NUL: Final = {"pattern": r"^[^\u0000]*$"}
Text = Annotated[str, AfterValidator(storable), Field(json_schema_extra=dict(NO_NUL))]
Ignored = Annotated[Any, Field(exclude=True)]  # taken, never looked at, kept nowhere: it may be anything
JsonObject = Annotated[dict[str, Any], AfterValidator(storable_json)]
