"""A conversation as prompt token ids, through the tokenizer's own chat template.

What a caller writes stays text: control tokens inside a message (`<|im_end|>`) are encoded as ordinary characters, and
a role is one of those that chat templates know; a message that this model's template would pass over is refused. Leaves
out tools, documents and images, and plain prompts, which the tokenizer encodes alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

ROLES = ("system", "developer", "user", "assistant", "tool")
_PASSED_OVER = ("system", "developer", "tool")  # roles that a template may not know, and then says nothing


def render_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, object]],
    *,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> list[int]:
    """Token ids of a conversation, ready to be answered.

    Example: `render_chat(tokenizer, [{"role": "user", "content": "2 + 3 ="}])`.

    Args:
        tokenizer: of the policy; it must carry a chat template.
        messages: at least one, each with a `role` of `ROLES` and a `content`.
        add_generation_prompt: end with the opening of the assistant's turn.
        continue_final_message: end inside the last message, so that it is gone on with; not with the former.
        settings: variables that the template reads.

    Raises:
        ValueError: no chat template, no messages, an unknown role, or the template refuses the conversation.

    """
    if not tokenizer.chat_template:
        raise ValueError("the model's tokenizer has no chat template: use /v1/completions or a chat model")
    if not messages:
        raise ValueError("messages is empty: give at least one message")
    for index, message in enumerate(messages):
        if message.get("role") not in ROLES:
            raise ValueError(f"messages[{index}].role must be one of {', '.join(ROLES)}, got {message.get('role')!r}")
    try:
        ids = tokenizer.apply_chat_template(
            cast("list[dict[str, str]]", [dict(message) for message in messages]),  # content may be parts too
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tokenize=True,
            return_dict=False,
            sanitize_control_tokens=True,
            **(settings or {}),
        )
        for index, message in enumerate(messages):
            if message["role"] in _PASSED_OVER and _is_passed_over(tokenizer, messages, index):
                raise ValueError(
                    f"the model's chat template passes over messages[{index}] (role {message['role']!r}): put its text "
                    "into a user message"
                )
    except (TemplateError, TypeError) as error:
        raise ValueError(f"the chat template refuses these messages: {error}") from error
    if not ids:
        raise ValueError("the chat template renders these messages to nothing: give a message with content")
    return cast("list[int]", ids)


def _is_passed_over(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, object]], index: int) -> bool:
    """Whether the prompt would be the same had this message another text."""
    content = messages[index].get("content")
    if not isinstance(content, str) or not content.strip():
        return False
    others = [dict(message) for message in messages]
    others[index]["content"] = f"{content}."
    one, other = (
        tokenizer.apply_chat_template(cast("list[dict[str, str]]", list(said)), tokenize=False)
        for said in (messages, others)
    )
    return one == other
