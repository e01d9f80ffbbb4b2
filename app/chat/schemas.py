"""JSON schemas as clients mean them: an object that names its properties has those and no others.

By the letter of JSON Schema it may have any others, and a small model that a grammar holds to a schema then makes some
up until it is cut. Clients' libraries leave `additionalProperties: false` out, or strip it (litellm does, for vLLM).
Leaves out compiling a schema (`app.engine.grammar`).
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

BY_NAME: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")  # name -> schema
IN_LISTS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
ALONE: Final = ("items", "additionalProperties", "contains", "not", "if", "then", "else", "unevaluatedProperties")
# Beside `properties`: schemas that may name more properties of the same object, which closing it would forbid.
COMBINING: Final = ("$ref", "anyOf", "oneOf", "allOf", "not", "if", "dependentSchemas", "unevaluatedProperties")


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Close every object of a schema that names its properties and does not say whether it may have others.

    What the result allows, the schema allows. A schema that combines others in one object is given back as it is.
    `additionalProperties: true` keeps an object open.
    """
    if any(combines(node) for node in schemas_in(schema)):
        return dict(schema)
    return with_objects_closed(schema)


def combines(node: Mapping[str, Any]) -> bool:
    """Tell whether several schemas speak of the properties of one object."""
    several = node.get("allOf")
    if isinstance(several, list) and len(several) > 1:
        return True
    return "properties" in node and any(key in node for key in COMBINING)


def schemas_in(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Walk a schema and those within it; what is data (`enum`, `const`, `default`) is none."""
    if not isinstance(schema, Mapping):
        return
    yield schema
    for key, value in schema.items():
        if key in BY_NAME and isinstance(value, Mapping):
            inside: Any = value.values()
        elif key in IN_LISTS and isinstance(value, list):
            inside = value
        else:
            inside = [value] if key in ALONE else []
        for one in inside:
            yield from schemas_in(one)


def with_objects_closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Rewrite a schema, and those within it."""
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key in BY_NAME and isinstance(value, Mapping):
            made[key] = {name: rewritten(one) for name, one in value.items()}
        elif key in IN_LISTS and isinstance(value, list):
            made[key] = [rewritten(one) for one in value]
        else:
            made[key] = rewritten(value) if key in ALONE else value
    if isinstance(made.get("properties"), dict) and not {"additionalProperties", "patternProperties"} & made.keys():
        made["additionalProperties"] = False
    return made


def rewritten(value: Any) -> Any:
    """Rewrite what stands where a schema may: `true` and `false` are schemas too."""
    return with_objects_closed(value) if isinstance(value, Mapping) else value
