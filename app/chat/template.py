"""A conversation with tools as prompt token ids, by the model's own chat template where it has a place for them.

What a template takes is found out once by rendering a conversation and looking for its words. What it does not take is
said in a way it does: tools in a system text, calls and results in words, a developer as the system, the system as part
of the user's first message. What it still leaves out is refused; nothing is dropped. Control tokens inside of what a
caller writes stay text. Leaves out HTTP, finding out (`app.chat.takes`), and how models write calls
(`app.chat.dialects`).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, cast

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from app.chat.calls import Call
from app.chat.dialects import DIALECTS, HERMES, ToolDialect, instructions
from app.chat.takes import SHORT, WORD, find_out, rendered, written_as
from app.chat.tools import NO_TOOLS, Toolbox

ROLES: Final = ("system", "developer", "user", "assistant", "tool")
NOTHING_VERBATIM: Final[Mapping[int, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Said:
    """One message for the template."""

    place: int  # of the caller's message that it shows, for what is said of it
    message: Mapping[str, Any]

    @property
    def text(self) -> str:
        """Its content."""
        return str(self.message["content"])

    def saying(self, text: str, **changed: Any) -> "Said":
        """Say something else."""
        return replace(self, message={**self.message, "content": text, **changed})


class ChatTemplate:
    """The chat template of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, parser: str = "auto") -> None:
        """Find out what a template takes.

        Args:
            tokenizer: of the model; without a chat template every conversation is refused.
            parser: how the model writes calls: a name of `DIALECTS`, `none` for not at all, `auto`: find out.

        """
        self.tokenizer = tokenizer
        self.takes = find_out(tokenizer)
        own = written_as(tokenizer, self.takes) if self.takes.calls else None
        self.dialect: ToolDialect | None = DIALECTS.get(parser) if parser != "auto" else own or HERMES

    def marks(self) -> dict[str, int]:
        """Give special tokens that are part of a call, and their ids: an answer's text must show them."""
        special = dict(zip(self.tokenizer.all_special_tokens, self.tokenizer.all_special_ids, strict=True))
        return {} if self.dialect is None else {mark: special[mark] for mark in self.dialect.marks if mark in special}

    def mark_tokens(self) -> dict[str, int]:
        """Give parts of a call that are tokens of their own, special or not, and their ids: no letters spell them."""
        marks = () if self.dialect is None else self.dialect.marks
        added = self.tokenizer.added_tokens_decoder.items()
        return {token.content: place for place, token in added if token.content in marks}

    @property
    def marks_by_id(self) -> dict[int, str]:
        """The same by their ids."""
        return {token: mark for mark, token in self.marks().items()}

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Toolbox = NO_TOOLS,
        *,
        reply: bool = True,
        continues: bool = False,
        settings: Mapping[str, Any] | None = None,
        verbatim: Mapping[int, str] = NOTHING_VERBATIM,
    ) -> tuple[int, ...]:
        """Write a conversation as token ids.

        Args:
            messages: at least one; `role`, `content` as text, perhaps `name`, `tool_calls` with arguments as JSON
                text, `tool_call_id`.
            tools: what may be called.
            reply: end with what invites the assistant's answer.
            continues: end inside the last message, so that it is gone on with; not with the former.
            settings: variables that the template reads.
            verbatim: places of the assistant's messages -> their calls and text as the model wrote them.

        Raises:
            ValueError: there is no template, it refuses the conversation, or it leaves a part of it out.

        """
        tokenizer = self.tokenizer
        if not tokenizer.chat_template:
            raise ValueError("the model's tokenizer has no chat template: use /v1/completions or a chat model")
        if not messages:
            raise ValueError("messages is empty: give at least one message")
        said = list(self.worded(messages, tools, verbatim))
        given = [dict(tool) for tool in tools.offered] if self.takes.tools and tools.offered else None
        self._refuse_control_tokens([one.message for one in said], given)
        try:
            ids = tokenizer.apply_chat_template(
                cast("list[dict[str, str]]", [dict(one.message) for one in said]),
                tools=cast("Any", given),
                add_generation_prompt=reply,
                continue_final_message=continues,
                tokenize=True,
                return_dict=False,
                sanitize_control_tokens=True,
                **(settings or {}),
            )
            left_out = self._left_out(said, given, settings or {})
        except (TemplateError, TypeError) as error:
            raise ValueError(f"the chat template refuses these messages: {error}") from error
        if left_out is not None:
            role = messages[left_out].get("role")
            raise ValueError(
                f"the model's chat template passes over messages[{left_out}] (role {role!r}): put its text into a user "
                "message"
            )
        if not ids:
            raise ValueError("the chat template renders these messages to nothing: give a message with content")
        return tuple(cast("list[int]", ids))

    def worded(
        self, messages: Sequence[Mapping[str, Any]], tools: Toolbox, verbatim: Mapping[int, str] = NOTHING_VERBATIM
    ) -> Iterator[Said]:
        """Say a conversation in the words that the template takes."""
        said = [
            Said(place, {"role": "assistant", "content": verbatim[place]})
            if place in verbatim
            else self._in_words(place, message, messages)
            for place, message in enumerate(messages)
        ]
        if tools.offered and not self.takes.tools:
            told = instructions(self.dialect or HERMES, tools.offered)
            if said[0].message["role"] == "system":
                said[0] = said[0].saying(f"{said[0].text}\n\n{told}" if said[0].text else told)
            else:
                said.insert(0, Said(0, {"role": "system", "content": told}))
        held = ""  # what the system said, until a user's message takes it along
        for place, one in enumerate(said):
            behind = said[place + 1] if place + 1 < len(said) else None
            if one.message["role"] == "system" and not self.takes.system:
                held = f"{held}{one.text}\n\n" if one.text else held
                if behind is None or behind.message["role"] not in {"system", "user"}:
                    yield Said(one.place, {"role": "user", "content": held.rstrip()})
                    held = ""
            elif held:
                yield one.saying(held + one.text)
                held = ""
            else:
                yield one

    def _in_words(self, place: int, message: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> Said:
        """Say one message."""
        role = message.get("role")
        if role not in ROLES:
            raise ValueError(f"messages[{place}].role must be one of {', '.join(ROLES)}, got {role!r}")
        if role == "developer" and not self.takes.developer:
            return Said(place, {**message, "role": "system"})
        if role == "tool":
            return Said(place, self._result(message, messages[:place]))
        if message.get("tool_calls"):
            return Said(place, self._calling(message))
        return Said(place, {key: value for key, value in message.items() if key != "tool_calls"})

    def _result(self, message: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Say what a tool gave back."""
        asked = message.get("tool_call_id")
        called = [call for one in before for call in one.get("tool_calls") or () if call["id"] == asked]
        name = message.get("name") or (called[-1]["function"]["name"] if called else None)
        named = {} if name is None else {"name": name}
        if self.takes.results:
            return {"role": "tool", "content": message["content"], "tool_call_id": self._id(str(asked)), **named}
        told = f"<tool_response>\n{message['content']}\n</tool_response>"
        return {"role": "user", "content": f"{name} gave back:\n{told}" if name else told}

    def _calling(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Say what an assistant called."""
        calls = message["tool_calls"]
        if self.takes.calls:
            return {**message, "tool_calls": [self._for_template(call) for call in calls]}
        dialect = self.dialect or HERMES
        written = dialect.write([Call(call["function"]["name"], call["function"]["arguments"]) for call in calls])
        text = f"{message['content']}\n{written}" if message["content"] else written
        return {"role": "assistant", "content": text}

    def _for_template(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """Write a call as templates take it: its arguments as an object where they are one."""
        arguments = call["function"]["arguments"]
        try:
            parsed = json.loads(arguments)
        except (ValueError, RecursionError):
            parsed = arguments
        given = parsed if isinstance(parsed, dict) else arguments
        function = {"name": call["function"]["name"], "arguments": given}
        return {"id": self._id(call["id"]), "type": "function", "function": function}

    def _id(self, given: str) -> str:
        """Give a call's id, shortened where the template wants it short."""
        if not self.takes.short_ids or (len(given) == SHORT and given.isalnum()):
            return given
        return hashlib.sha256(given.encode()).hexdigest()[:SHORT]

    def _left_out(self, said: Sequence[Said], tools: Any, settings: Mapping[str, Any]) -> int | None:
        """Place of a caller's message that the template says nothing of: changed words must be seen."""
        looked = [index for index, one in enumerate(said) if one.message["role"] != "user" and one.text.strip()]
        if not looked:
            return None
        marked = [
            one.saying(f"{one.text}{WORD.format(index)}.").message if index in looked else one.message
            for index, one in enumerate(said)
        ]
        shown = rendered(self.tokenizer, marked, tools, **settings)
        return next((said[index].place for index in looked if f"{WORD.format(index)}." not in shown), None)

    def _refuse_control_tokens(self, messages: Sequence[Mapping[str, Any]], tools: Any) -> None:
        """Refuse names of fields that hold control tokens: only values can be kept apart from the template's own.

        Raises:
            ValueError: there is one.

        """
        tokens = self.tokenizer.added_tokens_decoder.values()
        added = [token.content for token in tokens if not token.content.isspace()]
        for key in keys_of([tools, [message.get("tool_calls") for message in messages]]):
            if any(token in key for token in added):
                raise ValueError(f"a field of a tool or a call is named {key[:80]!r}, which holds a control token")


def keys_of(value: Any) -> Iterator[str]:
    """Give every key in a JSON value."""
    pending = [value]
    while pending:
        node = pending.pop()
        if isinstance(node, Mapping):
            yield from node
            pending.extend(node.values())
        elif isinstance(node, list | tuple):
            pending.extend(node)
