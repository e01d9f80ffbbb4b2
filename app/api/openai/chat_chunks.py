"""Streamed chat answers as bytes: OpenAI's `chat.completion.chunk` events.

A chunk is a few string joins: the parts that never change are written once per stream, because dozens of streams
share the interpreter with the engine's thread. Leaves out when each is sent (`app.api.openai.stream`).
"""

import json
from collections.abc import Iterator, Sequence
from json.encoder import encode_basestring_ascii as quoted

from app.api.answering.answers import Stored
from app.api.answering.ask import Ask
from app.api.answering.token_names import TokenNames, chat_logprobs
from app.api.http.errors import error_event
from app.api.openai.stream import DONE
from app.api.openai.whole import finish_reason
from app.chat.calls import CallReader, Piece, call_id
from app.engine.request import TokenInfo
from app.errors import LepoError


class ChatChunks:
    """Writes the events of one stream. `usage` is JSON text, or empty where the stream shows none."""

    def __init__(self, ask: Ask, model: str, names: TokenNames, readers: Sequence[CallReader | None]) -> None:
        """Begin a stream; `readers` find the calls in each choice, where it may hold any."""
        self._ask = ask
        self._readers = readers
        self._calls = [0] * ask.choices  # written so far
        self._names = names
        self._ids = bool(ask.fields.return_token_ids)
        self._head = (
            f'data: {{"id":"{ask.completion_id}","object":"chat.completion.chunk","created":{ask.created},'
            f'"model":{quoted(model)}'
        )

    def opening(self, choice: int, usage: str) -> str:
        """Write the role, before any text, and the prompt's ids where they are asked for."""
        text = self._chunk(choice, '{"role":"assistant","content":""}', usage)
        if not self._ids:
            return text
        return f'{text[:-3]},"prompt_token_ids":{json.dumps(self._ask.prompts[0].ids)}}}\n\n'

    def reasoned(self, choice: int, reading: str, usage: str) -> str:
        """Write the reading of the latent steps, apart from the answer."""
        text = quoted(reading)
        return self._chunk(choice, f'{{"reasoning":{text},"reasoning_content":{text}}}', usage)

    def delta(self, choice: int, text: str, tokens: tuple[TokenInfo, ...], usage: str) -> str:
        """Write new text of the answer, and calls that are complete."""
        reader = self._readers[choice]
        logprobs = json.dumps(chat_logprobs(self._names, tokens)) if self._ask.logprobs else "null"
        ids = f',"token_ids":{json.dumps([token.token_id for token in tokens])}' if self._ids else ""
        if reader is None:
            return self._content(choice, text, usage, logprobs, ids)
        pieces = reader.push(text)
        if (self._ask.logprobs or self._ids) and not (pieces and isinstance(pieces[0], str)):
            pieces.insert(0, "")  # tokens whose text is held back are shown when they are drawn
        return "".join(self._pieces(choice, pieces, usage, logprobs, ids))

    def last(self, stored: Stored, usage: str) -> str:
        """Write the end of one choice, once it is stored."""
        choice, reader = stored.choice, self._readers[stored.choice]
        rest = "" if reader is None else "".join(self._pieces(choice, reader.end(), usage, "null"))
        finish = finish_reason(stored, called=self._calls[choice] > 0)
        more = "".join(f',"{key}":{json.dumps(value)}' for key, value in stored.extra.items())
        return rest + self._chunk(choice, "{}", usage, finish=f'"{finish}"', more=more)

    def total(self, usage: str) -> str:
        """Write the usage of the whole request, for `stream_options.include_usage`, and the end of the stream."""
        return f'{self._head},"choices":[],"usage":{usage}}}\n\n' + DONE if usage else DONE

    def failed(self, error: LepoError) -> str:
        """Write why there is no more."""
        return error_event(error).decode() + DONE

    def _pieces(self, choice: int, pieces: Sequence[Piece], usage: str, logprobs: str, ids: str = "") -> Iterator[str]:
        """Write text and calls in order; log-probabilities and ids go with the first."""
        for piece in pieces:
            if isinstance(piece, str):
                yield self._content(choice, piece, usage, logprobs, ids)
                logprobs, ids = "null", ""
                continue
            place = self._calls[choice]
            self._calls[choice] += 1
            named = {"name": piece.name, "arguments": ""}
            begun = {"index": place, "id": call_id(self._ask.completion_id, choice, place), "type": "function"}
            for part in ({**begun, "function": named}, {"index": place, "function": {"arguments": piece.arguments}}):
                yield self._chunk(choice, json.dumps({"tool_calls": [part]}), usage)

    def _content(self, choice: int, text: str, usage: str, logprobs: str, ids: str) -> str:
        return self._chunk(choice, f'{{"content":{quoted(text)}}}', usage, logprobs=logprobs, more=ids)

    def _chunk(
        self, choice: int, delta: str, usage: str, *, logprobs: str = "null", finish: str = "null", more: str = ""
    ) -> str:
        shown = f',"usage":{usage}' if usage else ""
        return (
            f'{self._head},"choices":[{{"index":{choice},"delta":{delta},"logprobs":{logprobs},'
            f'"finish_reason":{finish}{more}}}]{shown}}}\n\n'
        )
