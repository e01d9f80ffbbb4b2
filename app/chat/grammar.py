"""The grammar of answers that are calls, or else of a form: in llguidance's Lark.

For a request that requires a call, and for one that offers tools beside a form for the answer's words. Arguments follow
each tool's own JSON schema. Leaves out compiling it (`app.engine.grammar`), and reading the calls.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from app.chat.dialects import Hermes, Mistral, ToolDialect
from app.chat.schemas import closed
from app.chat.tools import Toolbox

# JSON as models were shown it: without this a small model may write white space for ever.
SPACING: Final = {"x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}}
SHARED: Final = ("$defs", "definitions")  # what references point to stands at the root of a schema
LINE: Final = json.dumps("\n")


def grammar_of_calls(
    box: Toolbox, dialect: ToolDialect, mark_ids: Mapping[str, int], words: Mapping[str, Any] | None = None
) -> str:
    """Write the grammar.

    Args:
        box: its tools may be called; where it names one, only that.
        dialect: how the answer says it.
        mark_ids: ids of the dialect's marks that are tokens of their own, special or not: no letters spell them.
        words: JSON schema of an answer that calls nothing; None: it must call.

    """
    tools = [tool for tool in box.offered if box.named in {None, tool["function"]["name"]}]
    rules = [f"call{place}: %json {json.dumps(schema_of(tool, dialect))}" for place, tool in enumerate(tools)]
    one = " | ".join(f"call{place}" for place in range(len(tools)))
    between, before, after = '"; "', "", ""

    def mark(text: str) -> str:
        return f"<[{mark_ids[text]}]>" if text in mark_ids else json.dumps(text)

    if isinstance(dialect, Hermes):
        rules.append(f"wrapped: {mark(dialect.openings[0])} {LINE} call {LINE} {mark(dialect.closing)}")
        between = LINE
    elif isinstance(dialect, Mistral):
        between, before, after = '", "', f'{mark(dialect.openings[0])} "["', '"]"'
    item = "wrapped" if isinstance(dialect, Hermes) else "call"
    more = f"({between} {item})*" if box.parallel else ""
    if words is not None:
        rules.append(f"words: %json {json.dumps({**SPACING, **words})}")
    start = "calls" if words is None else "calls | words"
    return "\n".join([f"start: {start}", f"calls: {before} {item} {more} {after}", f"call: {one}", *rules])


def schema_of(tool: Mapping[str, Any], dialect: ToolDialect) -> dict[str, Any]:
    """Write the JSON schema of a call of one tool."""
    function = tool["function"]
    arguments = {"type": "object", **closed(function["parameters"])}
    shared: dict[str, Any] = {name: arguments.pop(name) for name in SHARED if name in arguments}
    key = "parameters" if dialect.name == "llama3" else "arguments"
    return {
        **SPACING,
        **shared,
        "type": "object",
        "properties": {"name": {"const": function["name"]}, key: arguments},
        "required": ["name", key],
        "additionalProperties": False,
    }
