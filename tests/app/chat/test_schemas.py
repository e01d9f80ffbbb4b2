"""Objects are closed where that is what is meant, and nothing is allowed that the schema forbids."""

from typing import Any

import pytest

from app.chat.schemas import closed

NAMED: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}
SHUT = {**NAMED, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (NAMED, SHUT),
        ({"type": "object", "properties": {}}, {"type": "object", "properties": {}, "additionalProperties": False}),
        ({"type": "array", "items": NAMED}, {"type": "array", "items": SHUT}),
        ({"$ref": "#/$defs/x", "$defs": {"x": NAMED}}, {"$ref": "#/$defs/x", "$defs": {"x": SHUT}}),
        ({"anyOf": [NAMED, {"type": "null"}]}, {"anyOf": [SHUT, {"type": "null"}]}),
        ({"allOf": [NAMED]}, {"allOf": [SHUT]}),
        (
            {"properties": {"properties": NAMED}},  # a property of that name is a property
            {"properties": {"properties": SHUT}, "additionalProperties": False},
        ),
    ],
)
def test_objects_that_name_their_properties_are_closed(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    assert closed(schema) == expected


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {**NAMED, "additionalProperties": True},
        {**NAMED, "additionalProperties": {"type": "string"}},
        {**NAMED, "patternProperties": {"^b": {"type": "string"}}},
        {"allOf": [NAMED, {"properties": {"b": {}}}]},  # closed, the two would forbid each other's
        {**NAMED, "anyOf": [{"properties": {"b": {}}}, {"properties": {"c": {}}}]},
        {"type": "array", "items": {**NAMED, "$ref": "#/$defs/x"}, "$defs": {"x": NAMED}},
        {"enum": [{"properties": {"a": 1}}]},  # data
    ],
)
def test_what_is_meant_to_be_open_stays_so(schema: dict[str, Any]) -> None:
    assert closed(schema) == schema
