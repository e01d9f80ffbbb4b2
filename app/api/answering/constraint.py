"""Constraints on an answer's text, made of what clients send.

`response_format`, `structured_outputs` and whatever else must force an answer's form (a required tool call) end in the
one `Constraint` that the engine takes. Leaves out whether it compiles: `app.engine.grammar`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from app.engine.constraint import Constraint

ANY_OBJECT: Final = Constraint("json_schema", '{"type": "object"}')  # any JSON object


def constraint_for_json_schema(schema: Mapping[str, Any]) -> Constraint:
    """Give the constraint whose answers are JSON that is valid under a schema."""
    return Constraint("json_schema", json.dumps(schema, ensure_ascii=False))


def constraint_for_lark(grammar: str) -> Constraint:
    """Give the constraint of a grammar in llguidance's Lark; JSON schemas go inside as `%json {...}`.

    Example: `constraint_for_lark('start: "<tool_call>" call "</tool_call>"\\ncall: %json {"type": "object"}')`.
    """
    return Constraint("lark", grammar)


def constraint_for_choices(choices: Sequence[str]) -> Constraint:
    """Give the constraint whose answers are one of some texts."""
    return Constraint("lark", "start: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices))
