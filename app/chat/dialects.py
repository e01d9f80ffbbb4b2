r"""The ways in which models write tool calls: Hermes and Qwen, Llama 3, Mistral.

Each reads calls from an answer, writes them as the model would have, and tells a model without tools of its own how.
Leaves out choosing one (`app.chat.template`) and reading piece by piece (`app.chat.calls`).
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.chat.calls import Call, Seen, Verdict, call_of, read_object

_BLANK: Final = re.compile(r"\s*")
_NAMED: Final = re.compile(r"([A-Za-z0-9_.-]+)\s*(?:\[ARGS\]\s*)?(?=\{)")  # Mistral's newer form, before arguments
_NAME_SO_FAR: Final = re.compile(r"[A-Za-z0-9_.-]*\s*(?:\[[ARGS]*\]?\s*)?")


@dataclass(frozen=True, slots=True)
class Hermes:
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, one after another, anywhere in the answer."""

    name: str = "hermes"
    openings: tuple[str, ...] = ("<tool_call>",)
    closing: str = "</tool_call>"
    leads: bool = False

    @property
    def marks(self) -> tuple[str, ...]:
        """What must be seen of special tokens."""
        return (*self.openings, self.closing)

    def read(self, text: str, names: Collection[str], *, ended: bool) -> Verdict:
        """Read one call; the last may lack its closing."""
        if self.closing not in text and not ended:
            return "wait"
        try:
            value, end = read_object(text, _after_blank(text, len(self.openings[0])))
        except ValueError as error:
            return "no" if ended or _is_broken(error, text.find(self.closing)) else "wait"
        behind = _after_blank(text, end)
        rest = text[behind : behind + len(self.closing)]
        if rest != self.closing and self.closing.startswith(rest) and not ended:
            return "wait"
        call = call_of(value, names)
        if call is None or not self.closing.startswith(rest):
            return "no"
        return Seen((call,), behind + len(rest))

    def write(self, calls: Sequence[Call]) -> str:
        """Write calls."""
        return "\n".join(f"<tool_call>\n{_named(call, 'arguments')}\n</tool_call>" for call in calls)


@dataclass(frozen=True, slots=True)
class Llama3:
    """`{"name": ..., "parameters": {...}}` and nothing else; several are separated by semicolons."""

    name: str = "llama3"
    openings: tuple[str, ...] = ("{", "<|python_tag|>")
    leads: bool = True

    @property
    def marks(self) -> tuple[str, ...]:
        """What must be seen of special tokens."""
        return (self.openings[1],)

    def read(self, text: str, names: Collection[str], *, ended: bool) -> Verdict:
        """Read all calls; what follows them is text."""
        calls: list[Call] = []
        start = len(self.openings[1]) if text.startswith(self.openings[1]) else 0
        size = 0
        while True:
            try:
                value, end = read_object(text, _after_blank(text, start))
            except ValueError:
                if not ended:
                    return "wait"
                break
            call = call_of(value, names)
            if call is None:
                break
            calls.append(call)
            size, behind = end, _after_blank(text, end)
            if behind == len(text) and not ended:
                return "wait"
            if not text.startswith(";", behind):
                break
            start = behind + 1
        return Seen(tuple(calls), size) if calls else "no"

    def write(self, calls: Sequence[Call]) -> str:
        """Write calls."""
        return "; ".join(_named(call, "parameters") for call in calls)


@dataclass(frozen=True, slots=True)
class Mistral:
    """`[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]`, or `[TOOL_CALLS]name{...}` as newer models write."""

    name: str = "mistral"
    openings: tuple[str, ...] = ("[TOOL_CALLS]",)
    leads: bool = False

    @property
    def marks(self) -> tuple[str, ...]:
        """What must be seen of special tokens."""
        return self.openings

    def read(self, text: str, names: Collection[str], *, ended: bool) -> Verdict:
        """Read the calls of one opening."""
        start = _after_blank(text, len(self.openings[0]))
        named = _NAMED.match(text, start)
        if named is None and not text.startswith("[", start):
            return "wait" if _NAME_SO_FAR.fullmatch(text, start) and not ended else "no"
        try:
            value, end = read_object(text, named.end() if named else start)
        except ValueError:
            return "no" if ended else "wait"
        found = [{"name": named[1], "arguments": value}] if named else value
        calls = [call for call in (call_of(one, names) for one in found) if call is not None]
        return Seen(tuple(calls), end) if calls and len(calls) == len(found) else "no"

    def write(self, calls: Sequence[Call]) -> str:
        """Write calls."""
        return f"[TOOL_CALLS][{', '.join(_named(call, 'arguments') for call in calls)}]"


ToolDialect = Hermes | Llama3 | Mistral
HERMES: Final = Hermes()
DIALECTS: Final[Mapping[str, ToolDialect]] = {one.name: one for one in (HERMES, Mistral(), Llama3())}


def instructions(dialect: ToolDialect, tools: Sequence[Mapping[str, Any]]) -> str:
    """Tell a model whose chat template has no place for tools what there is and how to call it."""
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    example = dialect.write([Call("NAME", '{"ARGUMENT": "VALUE"}')])
    return (
        f"You may call these functions:\n{listed}\n\nTo call one, answer with its name and its arguments as JSON, "
        f"in this form:\n{example}\nThe result comes in the next message. If no function helps, answer in words."
    )


def _named(call: Call, key: str) -> str:
    return f'{{"name": {json.dumps(call.name)}, "{key}": {call.arguments}}}'


def _after_blank(text: str, start: int) -> int:
    blank = _BLANK.match(text, start)
    assert blank is not None
    return blank.end()


def _is_broken(error: ValueError, closing: int) -> bool:
    """Whether JSON went wrong before what looks like the closing; else that may be inside of a string."""
    if not isinstance(error, json.JSONDecodeError):
        return True
    return not error.msg.startswith("Unterminated string") and error.pos <= closing
