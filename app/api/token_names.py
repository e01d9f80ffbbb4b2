"""Log-probabilities as OpenAI's two endpoints write them, with token ids turned into text once and remembered.

A token that is part of a character reads as U+FFFD. Leaves out how they are computed (the engine).
"""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from app.engine.request import TokenInfo

LOWEST = -9999.0  # stands for minus infinity, which JSON does not have


class TokenNames:
    """The text of single tokens. Bounded by the vocabulary."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._names: dict[int, str] = {}

    def __getitem__(self, token_id: int) -> str:
        name = self._names.get(token_id)
        if name is None:
            name = self._names[token_id] = str(self._tokenizer.decode([token_id], skip_special_tokens=False))
        return name


def chat_logprobs(names: TokenNames, tokens: Sequence[TokenInfo]) -> dict[str, Any]:
    """Write the tokens of a chat answer: `logprobs` of a choice or a chunk."""
    return {"content": [chat_token(names, token) for token in tokens], "refusal": None}


def chat_token(names: TokenNames, token: TokenInfo) -> dict[str, Any]:
    """Write one token and its likeliest rivals."""
    rivals = [named(names[token_id], logprob) for token_id, logprob in token.top]
    return {**named(names[token.token_id], token.logprob), "top_logprobs": rivals}


def named(name: str, logprob: float) -> dict[str, Any]:
    """Write one candidate."""
    return {"token": name, "logprob": max(logprob, LOWEST), "bytes": list(name.encode())}


def completion_logprobs(
    names: TokenNames, tokens: Sequence[TokenInfo], *, offset: int, unscored: Sequence[int] = ()
) -> dict[str, Any]:
    """Write the tokens of a plain completion.

    Args:
        names: of this tokenizer.
        tokens: as they were drawn, or scored.
        offset: characters of text before the first of them.
        unscored: ids that come first and have no log-probability (the first token of an echoed prompt).

    """
    texts = [names[token_id] for token_id in (*unscored, *(token.token_id for token in tokens))]
    ends = [offset]
    for text in texts:
        ends.append(ends[-1] + len(text))
    blanks = [None] * len(unscored)
    return {
        "tokens": texts,
        "token_logprobs": [*blanks, *(max(token.logprob, LOWEST) for token in tokens)],
        "top_logprobs": [*blanks, *(rivals(names, token) for token in tokens)],
        "text_offset": ends[:-1],
    }


def rivals(names: TokenNames, token: TokenInfo) -> dict[str, float]:
    """Map the likeliest candidates and the drawn token to their log-probabilities."""
    listed = {names[token_id]: max(logprob, LOWEST) for token_id, logprob in reversed(token.top)}
    listed.setdefault(names[token.token_id], max(token.logprob, LOWEST))
    return listed
