"""What a chat template takes of a conversation, and how its model writes calls: found out by rendering, not by name.

Leaves out what is done about it (`app.chat.template`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from app.chat.calls import Call, CallReader
from app.chat.dialects import DIALECTS, ToolDialect

WORD: Final = "zqvword{}"  # words that no template writes by itself
CALL_ID: Final = "call_0123456789abcdef01234567"
SHORT: Final = 9  # letters of a call's id where a template insists on that (Mistral's)


@dataclass(frozen=True, slots=True)
class Takes:
    """What a chat template shows of a conversation."""

    tools: bool  # `tools`, beside the messages
    calls: bool  # `tool_calls` of an assistant's message
    results: bool  # messages of the role `tool`
    system: bool
    developer: bool
    short_ids: bool = False  # it insists on ids of nine letters or digits


def find_out(tokenizer: PreTrainedTokenizerBase) -> Takes:
    """Render conversations whose words are known, and see which of them the template shows."""
    if not tokenizer.chat_template:
        return Takes(tools=False, calls=False, results=False, system=False, developer=False)
    ask = {"role": "user", "content": WORD.format("ask")}
    offered = {"description": "d", "parameters": {"type": "object", "properties": {}}}
    tools = [{"type": "function", "function": {"name": WORD.format("tool"), **offered}}]
    short = False
    for call_id in (CALL_ID, CALL_ID[-SHORT:]):
        calling = asking(call_id)
        result = {"role": "tool", "tool_call_id": call_id, "name": WORD.format("name"), "content": WORD.format("back")}
        calls = shows(tokenizer, [ask, calling, result], WORD.format("name"), WORD.format("value"))
        short = calls and call_id != CALL_ID
        if calls:
            break
    told = [ask, calling if calls else {"role": "assistant", "content": "a"}, result]
    return Takes(
        tools=shows(tokenizer, [ask], WORD.format("tool"), tools=tools),
        calls=calls,
        results=shows(tokenizer, told, WORD.format("back")),
        system=shows(tokenizer, [{"role": "system", "content": WORD.format("said")}, ask], WORD.format("said")),
        developer=shows(tokenizer, [{"role": "developer", "content": WORD.format("said")}, ask], WORD.format("said")),
        short_ids=short,
    )


def asking(call_id: str) -> dict[str, Any]:
    """Write an assistant's message that calls a tool."""
    function = {"name": WORD.format("name"), "arguments": {"x": WORD.format("value")}}
    calls = [{"id": call_id, "type": "function", "function": function}]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def written_as(tokenizer: PreTrainedTokenizerBase, takes: Takes) -> ToolDialect | None:
    """Find the dialect that reads a call as this template writes it; None: none does."""
    ask = {"role": "user", "content": WORD.format("ask")}
    call_id = CALL_ID[-SHORT:] if takes.short_ids else CALL_ID
    try:
        before = rendered(tokenizer, [ask], reply=True)
        whole = rendered(tokenizer, [ask, asking(call_id)])
    except (TemplateError, TypeError):
        return None
    answer = whole.removeprefix(before) if whole.startswith(before) else whole.partition(ask["content"])[2]
    for dialect in DIALECTS.values():
        reader = CallReader(dialect, {WORD.format("name")})
        if any(isinstance(piece, Call) for piece in (*reader.push(answer), *reader.end())):
            return dialect
    return None


def shows(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], *words: str, tools: Any = None
) -> bool:
    """Whether the template shows all of some words; one that refuses the conversation does not."""
    try:
        text = rendered(tokenizer, messages, tools)
    except (TemplateError, TypeError):
        return False
    return all(word in text for word in words)


def rendered(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    tools: Any = None,
    *,
    reply: bool = False,
    **settings: Any,
) -> str:
    """Write a conversation as text."""
    given = cast("list[dict[str, str]]", [dict(message) for message in messages])
    return str(
        tokenizer.apply_chat_template(given, tools=tools, add_generation_prompt=reply, tokenize=False, **settings)
    )
