"""A recorded chat request as the chat template took it: its messages as texts and calls, its tools, its settings.

The learner shows an answer's prompt once more, with a hint in it, and must not leave out what the policy was told.
Leaves out checking: what is recorded was checked when it came.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.chat.template import ChatTemplate
from app.chat.tools import Toolbox


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request."""

    messages: Sequence[Mapping[str, Any]]  # none where the prompt came otherwise
    box: Toolbox  # what could be called
    settings: Mapping[str, Any]  # variables of the template
    continues: bool = False  # whether the last message was gone on with
    reply: bool = True  # whether the prompt ended with what invites an answer

    def last_said(self) -> int | None:
        """Place of the last thing that the user said."""
        places = [place for place, message in enumerate(self.messages) if message["role"] == "user"]
        return places[-1] if places else None

    def saying(self, place: int, text: str) -> "Recorded":
        """Put other words into one message."""
        before, after = self.messages[:place], self.messages[place + 1 :]
        return replace(self, messages=[*before, {**self.messages[place], "content": text}, *after])

    def render(self, template: ChatTemplate) -> tuple[int, ...]:
        """Write it as token ids.

        Raises:
            ValueError: the template refuses it.

        """
        return template.render(
            self.messages, self.box, reply=self.reply, continues=self.continues, settings=self.settings
        )


def recorded(request: Mapping[str, Any]) -> Recorded:
    """Read what was recorded of a request for chat or for a response."""
    continues = bool(request.get("continue_final_message"))
    tools = tuple(tool_of(tool["function"]) for tool in request.get("tools") or ())
    return Recorded(
        messages=[message_of(message) for message in request.get("messages") or ()],
        box=Toolbox(tools, "none" if request.get("tool_choice") == "none" else "auto"),
        settings=request.get("chat_template_kwargs") or {},
        continues=continues,
        reply=not continues and request.get("add_generation_prompt") is not False,
    )


def tool_of(function: Mapping[str, Any]) -> dict[str, Any]:
    """Show a function as chat templates know it, whatever of it was left out."""
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    told = {"name": function["name"], "description": function.get("description") or "", "parameters": parameters}
    return {"type": "function", "function": told}


def message_of(message: Mapping[str, Any]) -> dict[str, Any]:
    """Give a message one text; parts stand on lines of their own."""
    content = message.get("content")
    text = "\n".join(part["text"] for part in content) if isinstance(content, list) else content or ""
    return {**message, "content": text}
