"""Former turns that called tools, written as the model wrote them: a client sends calls back, not the text they were.

A call's id says which recorded answer it was read from (`app.chat.calls.call_id`). Where reading that answer gives the
message a client sent, word for word and call for call, nothing was lost, and the answer can stand in the prompt as it
was drawn; so its tokens can (`app.api.answering.sessions`). A message that was changed, an answer of which not every
call was given out, and a template that writes such an answer in another place are rendered as ever.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.api.answering.ask import Prompt
from app.chat.calls import Call, CallReader, Dialect, call_id
from app.store.sessions import Spoken, spoken


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt that messages become, to be rendered once more where former turns are known word for word."""

    messages: Sequence[Mapping[str, Any]]  # as the chat template takes them
    render: Callable[[Mapping[int, str]], Prompt]  # with places of messages -> what the model wrote there

    @property
    def calling(self) -> dict[int, Mapping[str, Any]]:
        """Messages that call tools, by their places."""
        return {place: message for place, message in enumerate(self.messages) if message.get("tool_calls")}


@dataclass(frozen=True, slots=True)
class Verbatim:
    """What is known word for word of a conversation."""

    answers: Mapping[int, str]  # place of a message -> the recorded answer that it was read from
    turn: int  # the last of their turns


def verbatim(
    store: Session, key_id: str, session: str, conversation: Conversation, dialect: Dialect
) -> Verbatim | None:
    """Find the recorded answers of messages that call tools; None where there is none."""
    calling = conversation.calling
    firsts = {str(message["tool_calls"][0]["id"]): place for place, message in calling.items()}
    found: dict[int, Spoken] = {}
    for one in spoken(store, key_id, session, lambda response, choice: call_id(response, choice, 0) in firsts):
        place = firsts[call_id(one.completion_id, one.choice, 0)]
        if reads_as(one, calling[place], dialect):
            found[place] = one
    if not found:
        return None
    return Verbatim({place: one.answer for place, one in found.items()}, max(one.turn for one in found.values()))


def reads_as(one: Spoken, message: Mapping[str, Any], dialect: Dialect) -> bool:
    """Whether reading an answer gives this message, and all of it."""
    sent = message["tool_calls"]
    reader = CallReader(dialect, {call["function"]["name"] for call in sent})
    pieces = [*reader.push(one.answer), *reader.end()]
    calls = [piece for piece in pieces if isinstance(piece, Call)]
    text = "".join(piece for piece in pieces if isinstance(piece, str))
    return text == message["content"] and [
        (call_id(one.completion_id, one.choice, place), call.name, json.loads(call.arguments))
        for place, call in enumerate(calls)
    ] == [(call["id"], call["function"]["name"], arguments_of(call)) for call in sent]


def arguments_of(call: Mapping[str, Any]) -> Any:
    """Read the arguments of a call that was sent back; None: they are no JSON any more."""
    try:
        return json.loads(call["function"]["arguments"])
    except (ValueError, RecursionError):
        return None
