"""Constraints on an answer's text, made of what clients send, and compiled before the engine hears of them.

`response_format`, `structured_outputs` and whatever else must force an answer's form (a required tool call) end in the
one `Constraint` that the engine takes. Leaves out the fields (`app.api.answering.formats`) and what a grammar may cost
(`app.engine.grammar`).
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from app.engine.constraint import Constraint
from app.engine.grammar import Grammars, InvalidConstraint
from app.errors import BadRequest, Unavailable

COMPILE_S: Final = 10.0  # seconds after which a request stops waiting for its grammar


def constraint_for_json_schema(schema: Mapping[str, Any]) -> Constraint:
    """Give the constraint whose answers are JSON that is valid under a schema."""
    return Constraint("json_schema", json.dumps(schema, ensure_ascii=False))


def constraint_for_lark(grammar: str) -> Constraint:
    r"""Give the constraint of a grammar in llguidance's Lark; JSON schemas go inside as `%json {...}`.

    Example: `constraint_for_lark('start: "<tool_call>" call "</tool_call>"\ncall: %json {"type": "object"}')`.
    """
    return Constraint("lark", grammar)


def constraint_for_regex(expression: str) -> Constraint:
    """Give the constraint whose answers a regular expression matches as a whole."""
    return Constraint("regex", expression)


def constraint_for_choices(choices: Sequence[str]) -> Constraint:
    """Give the constraint whose answers are one of some texts."""
    return Constraint(
        "lark", "start: CHOICE\nCHOICE: " + " | ".join(json.dumps(one, ensure_ascii=False) for one in choices)
    )


async def compiled(grammars: Grammars, constraint: Constraint, param: str) -> Constraint:
    """Compile a constraint on the grammars' own thread, so that neither the event loop nor the engine waits for it.

    Args:
        grammars: of the engine that it is for.
        constraint: what a client asks for.
        param: the field that it came from.

    Raises:
        BadRequest: it cannot be served; the message says why.
        Unavailable: too many wait for theirs.

    """
    try:
        compiling = grammars.prepare(constraint)
        if compiling is None:
            words = "Too many constraints wait to be compiled; try again."
            raise Unavailable(words, code="compiler_busy", retry_after=2)
        async with asyncio.timeout(COMPILE_S):
            await asyncio.wrap_future(compiling)
    except InvalidConstraint as error:
        raise BadRequest(f"{param}: {error}.".replace("..", "."), param=param, code="invalid_constraint") from error
    except TimeoutError as error:
        words = f"{param} was not compiled within {COMPILE_S:.0f} s; send a smaller one."
        raise BadRequest(words, param=param, code="invalid_constraint") from error
    return constraint
