"""From what a client sent to the token ids a model sees, off the event loop.

A 1 MB text takes a good part of a second to tokenize, so this runs on threads of its own, two at once; the rest of
the server goes on. Callers give messages and text, never a template. Leaves out whether the prompt fits (`generation`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import anyio
import anyio.to_thread
from transformers import PreTrainedTokenizerBase

from app.api.answering.ask import Prompt
from app.api.answering.template_fields import template_settings
from app.chat.template import NOTHING_VERBATIM, ChatTemplate
from app.chat.tools import NO_TOOLS, Toolbox
from app.engine.text import decoder, pieces
from app.errors import BadRequest

T = TypeVar("T")

THREADS = 2


class PromptReader:
    """Reads prompts with one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, parser: str = "auto") -> None:
        self.tokenizer = tokenizer
        self.template = ChatTemplate(tokenizer, parser)
        # One more than the largest id: where ids were left free, there are fewer entries than that.
        self.vocabulary = max(tokenizer.get_vocab().values(), default=-1) + 1
        self.special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        self.control_ids = frozenset(tokenizer.added_tokens_decoder)
        self.shown = decoder(tokenizer)  # ids as the text of an answer
        self.pieces = pieces(tokenizer)  # texts of single ids, where they are enough
        self._decode = decoder(tokenizer, special=True)
        self._limiter = anyio.CapacityLimiter(THREADS)
        self.encode(
            "a", special=True
        )  # the first call may drop truncation saved with the tokenizer; later ones only read

    async def apart(self, work: Callable[[], T]) -> T:
        """Run work on this reader's threads."""
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)

    def encode(self, text: str, *, special: bool) -> tuple[int, ...]:
        """Turn text into token ids, with or without the tokens the tokenizer puts around a text."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=special))

    def decode(self, ids: Sequence[int]) -> str:
        """Turn token ids into text, special tokens shown."""
        return self._decode(list(ids))

    def chat(
        self,
        messages: Sequence[Mapping[str, object]],
        tools: Toolbox = NO_TOOLS,
        *,
        reply: bool = True,
        continues: bool = False,
        settings: Mapping[str, object] | None = None,
        verbatim: Mapping[int, str] = NOTHING_VERBATIM,
    ) -> Prompt:
        """Put messages through the model's chat template; control tokens inside them stay text.

        Args:
            messages: as `app.chat.template.ChatTemplate.render` takes them.
            tools: what may be called.
            reply: end with what invites the assistant's answer.
            continues: end inside the last message, to go on with it; without `reply`.
            settings: variables for the template, see `app.api.answering.template_fields`.
            verbatim: places of the assistant's messages -> what the model wrote there, calls and all.

        Raises:
            BadRequest: the model has no template, or its template refuses these messages or settings.

        """
        try:
            told = template_settings(self.tokenizer, settings)
            ids = self.template.render(
                messages, tools, reply=reply, continues=continues, settings=told, verbatim=verbatim
            )
        except ValueError as error:
            raise BadRequest(f"{error}.", param="messages") from error
        return Prompt(ids, self.decode(ids))

    def text(self, text: str, param: str, *, special: bool = True) -> Prompt:
        """Read one plain prompt.

        Raises:
            BadRequest: it has no tokens.

        """
        return self.checked(Prompt(self.encode(text, special=special), text), param)

    def tokens(self, ids: Sequence[int], param: str) -> Prompt:
        """Read one prompt given as token ids.

        Raises:
            BadRequest: it is empty, or an id is not in the vocabulary.

        """
        if any(not 0 <= token < self.vocabulary for token in ids):
            raise BadRequest(f"{param}: token ids must be between 0 and {self.vocabulary - 1}.", param=param)
        return self.checked(Prompt(tuple(ids), self.decode(ids)), param)

    def checked(self, prompt: Prompt, param: str) -> Prompt:
        """Let a prompt through that has at least one token.

        Raises:
            BadRequest: it has none.

        """
        if not prompt.ids:
            raise BadRequest(f"{param}: the prompt has no tokens; send some text.", param=param)
        return prompt
