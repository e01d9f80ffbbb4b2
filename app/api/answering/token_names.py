r"""Log-probabilities as OpenAI's two endpoints write them, with token ids turned into text once and remembered.

A token is named by the text it adds inside of a text, its first space included. One that is part of a character is
named by its bytes, `bytes:\xe6\x9c`; where two candidates are still shown alike, the less likely one is named by its
id, `token_id:17`, so that no two are taken for each other. Leaves out how log-probabilities are computed (the engine),
and where tokens begin in a text (`app.api.answering.places`).
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from transformers import PreTrainedTokenizerBase

from app.engine.request import TokenInfo
from app.engine.text import BYTE_PIECE

LOWEST: Final = -9999.0  # stands for minus infinity, which JSON does not have
PRINTABLE: Final = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))  # bytes that GPT-2's alphabet keeps


class Name(NamedTuple):
    """How a token is shown."""

    text: str
    bytes: list[int]


class TokenNames:
    """The names of single tokens. Bounded by the vocabulary."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._names: dict[int, Name] = {}
        others = (byte for byte in range(256) if byte not in PRINTABLE)
        moved = ((chr(256 + place), byte) for place, byte in enumerate(others))
        self._alphabet = dict(chain(((chr(byte), byte) for byte in PRINTABLE), moved))
        self._context = [int(token) for token in tokenizer.encode("a", add_special_tokens=False)]  # an inside of a text
        self._shown = self._decode(self._context)

    def __getitem__(self, token_id: int) -> str:
        return self.name(token_id).text

    def name(self, token_id: int) -> Name:
        """Name a token."""
        found = self._names.get(token_id)
        if found is None:
            found = self._names[token_id] = self._make(token_id)
        return found

    def _make(self, token_id: int) -> Name:
        text = self._decode([token_id])
        raw = self._raw(str(self._tokenizer.convert_ids_to_tokens(token_id))) if "\ufffd" in text else None
        if raw is not None:
            return Name("bytes:" + "".join(f"\\x{byte:02x}" for byte in raw), raw)
        inside = self._decode([*self._context, token_id])
        if inside.startswith(self._shown):
            text = inside[len(self._shown) :]
        return Name(text, list(text.encode()))

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _raw(self, piece: str) -> list[int] | None:
        """Read the bytes of a piece that is no whole text; None when it is in no alphabet known here."""
        single = BYTE_PIECE.fullmatch(piece)
        if single is not None:
            return [int(single[1], 16)]
        if all(letter in self._alphabet for letter in piece):
            return [self._alphabet[letter] for letter in piece]
        return None


def chat_logprobs(names: TokenNames, tokens: Sequence[TokenInfo]) -> dict[str, Any]:
    """Write the tokens of a chat answer: `logprobs` of a choice or a chunk."""
    return {"content": [chat_token(names, token) for token in tokens], "refusal": None}


def chat_token(names: TokenNames, token: TokenInfo) -> dict[str, Any]:
    """Write one token and its likeliest rivals."""
    rivals = [named(names.name(token_id), logprob) for token_id, logprob in token.top]
    return {**named(names.name(token.token_id), token.logprob), "top_logprobs": rivals}


def named(name: Name, logprob: float) -> dict[str, Any]:
    """Write one candidate."""
    return {"token": name.text, "logprob": max(logprob, LOWEST), "bytes": name.bytes}


def completion_logprobs(
    names: TokenNames, tokens: Sequence[TokenInfo], places: Sequence[int], *, unscored: Sequence[int] = ()
) -> dict[str, Any]:
    """Write the tokens of a plain completion.

    Args:
        names: of this tokenizer.
        tokens: as they were drawn, or scored.
        places: where they begin in the text, those of `unscored` first.
        unscored: ids that come first and have no log-probability (the first token of an echoed prompt).

    """
    blanks = [None] * len(unscored)
    return {
        "tokens": [names[token_id] for token_id in (*unscored, *(token.token_id for token in tokens))],
        "token_logprobs": [*blanks, *(max(token.logprob, LOWEST) for token in tokens)],
        "top_logprobs": [*blanks, *(rivals(names, token) for token in tokens)],
        "text_offset": list(places),
    }


def rivals(names: TokenNames, token: TokenInfo) -> dict[str, float]:
    """Map the drawn token and the likeliest candidates to their log-probabilities; the drawn one is named as shown."""
    drawn = {token.token_id: token.logprob}
    listed: dict[str, float] = {}
    for token_id, logprob in (drawn | dict(token.top) | drawn).items():
        name = names[token_id]
        listed[f"token_id:{token_id}" if name in listed else name] = max(logprob, LOWEST)
    return listed
