"""Streamed chat answers as bytes: OpenAI's `chat.completion.chunk` events.

A chunk is a few string joins: the parts that never change are written once per stream, because dozens of streams
share the interpreter with the engine's thread. Leaves out when each is sent (`app.api.openai.stream`).
"""

import json
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from app.api.answering.ask import Ask
from app.api.answering.token_names import TokenNames, chat_logprobs
from app.engine.request import TokenInfo


class ChatChunks:
    """Writes the events of one stream. `usage` is JSON text, or empty where the stream shows none."""

    def __init__(self, ask: Ask, model: str, names: TokenNames) -> None:
        self._ask = ask
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
        """Write new text of the answer."""
        logprobs = json.dumps(chat_logprobs(self._names, tokens)) if self._ask.logprobs else "null"
        more = f',"token_ids":{json.dumps([token.token_id for token in tokens])}' if self._ids else ""
        return self._chunk(choice, f'{{"content":{quoted(text)}}}', usage, logprobs=logprobs, more=more)

    def last(self, choice: int, finish: str, extra: dict[str, Any], usage: str) -> str:
        """Write the end of one choice, once it is stored."""
        more = "".join(f',"{key}":{json.dumps(value)}' for key, value in extra.items())
        return self._chunk(choice, "{}", usage, finish=f'"{finish}"', more=more)

    def total(self, usage: str) -> str:
        """Write the usage of the whole request, for `stream_options.include_usage`."""
        return f'{self._head},"choices":[],"usage":{usage}}}\n\n'

    def _chunk(
        self, choice: int, delta: str, usage: str, *, logprobs: str = "null", finish: str = "null", more: str = ""
    ) -> str:
        shown = f',"usage":{usage}' if usage else ""
        return (
            f'{self._head},"choices":[{{"index":{choice},"delta":{delta},"logprobs":{logprobs},'
            f'"finish_reason":{finish}{more}}}]{shown}}}\n\n'
        )
