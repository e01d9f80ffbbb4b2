"""What a request may tell the model's chat template: `chat_template_kwargs`.

The template is the model's own; a caller sets the variables it reads (`enable_thinking`) and nothing else. Control
tokens in their values stay text, like those in messages. Leaves out rendering (`training.models.chat`).
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from transformers import PreTrainedTokenizerBase

from app.errors import BadRequest

PARAM: Final = "chat_template_kwargs"
OURS: Final = frozenset(  # what rendering sets itself, and arguments of it that are no variables
    [
        "messages",
        "conversation",
        "tools",
        "documents",
        "add_generation_prompt",
        "continue_final_message",
        "chat_template",
        "tokenize",
        "padding",
        "sanitize_control_tokens",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
    ]
)
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def template_settings(tokenizer: PreTrainedTokenizerBase, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Check variables for the chat template.

    Raises:
        BadRequest: one is not the caller's to set, or the template does not read it.

    """
    template = str(tokenizer.chat_template)
    for name in given or ():
        if name in OURS or name in tokenizer.special_tokens_map:
            raise BadRequest(f"{PARAM}: {name} cannot be set here; leave it out.", param=PARAM)
        if not NAME.fullmatch(name) or not re.search(rf"\b{name}\b", template):
            words = f"{PARAM}: this model's chat template reads no variable {name[:64]!r}; leave it out."
            raise BadRequest(words, param=PARAM)
    return dict(given or {})
