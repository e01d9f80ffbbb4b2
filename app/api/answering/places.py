"""Where the tokens of a text begin in it: `text_offset` of plain completions, the same whole and streamed.

A token begins where its first character does; one that is a part of a character, where that character does. Tokens of
a stop string, which the text leaves out, are placed where they would have stood. Leaves out what tokens are called
(`app.api.answering.token_names`).
"""

from collections.abc import Sequence
from typing import Any

from app.api.answering.ask import Prompt
from app.api.answering.prompts import PromptReader
from app.api.answering.token_names import TokenNames
from app.engine.text import CONTEXT, Detokenizer


class Places:
    """The places of one text's tokens, as they arrive."""

    def __init__(self, names: TokenNames, detokenizer: Detokenizer, start: int) -> None:
        """Begin a text; its first character is number `start` of what is shown."""
        self._names = names
        self._detokenizer = detokenizer
        self._at = start

    def of(self, ids: Sequence[int]) -> list[int]:
        """Place the next tokens."""
        return [self._place(token) for token in ids]

    def _place(self, token: int) -> int:
        piece, name = self._detokenizer.push(token), self._names[token]
        before, self._at = self._at, self._at + len(piece)
        return self._at - len(name) if name and piece.endswith(name) else before  # ahead of it: what was held back


def of_answer(reader: PromptReader, names: TokenNames, prompt: Prompt, start: int) -> Places:
    """Place the tokens of an answer that goes on from a prompt."""
    detokenizer = Detokenizer(reader.shown, reader.pieces, before=prompt.ids[-CONTEXT:])
    return Places(names, detokenizer, start)


def of_prompt(reader: PromptReader, names: TokenNames, prompt: Prompt) -> list[int]:
    """Place the tokens of a prompt in its text."""
    whole = reader.decode(prompt.ids)
    if not whole.endswith(prompt.text):  # the tokenizer does not give back what it took, as one that lowers cases
        return read_again(reader, prompt)
    ahead = len(whole) - len(prompt.text)  # the tokens put before a text are not part of it
    places = Places(names, Detokenizer(reader.decode), 0)
    return [max(0, place - ahead) for place in places.of(prompt.ids)]


def read_again(reader: PromptReader, prompt: Prompt) -> list[int]:
    """Place tokens where the tokenizer finds them in the text; at its end those that it does not find there."""
    backend: Any = getattr(reader.tokenizer, "backend_tokenizer", None)
    for special in (True, False) if backend is not None else ():
        found = backend.encode(prompt.text, add_special_tokens=special)
        if tuple(found.ids) == prompt.ids:
            return along(found.offsets)
    return [len(prompt.text)] * len(prompt.ids)


def along(spans: Sequence[tuple[int, int]]) -> list[int]:
    """Turn spans of characters into places: a space that a span leaves out belongs to the token behind it."""
    places = []
    over = 0  # characters that the tokens so far cover
    for begin, end in spans:
        places.append(over if begin == end else min(begin, over))
        over = max(over, end)
    return places
