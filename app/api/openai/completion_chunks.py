"""Streamed plain completions as bytes: OpenAI's `text_completion` events.

The twin of `chat_chunks`. With `echo` the prompt is the first text of each choice. Leaves out when each is sent.
"""

import json
from json.encoder import encode_basestring_ascii as quoted

from app.api.answering.answers import Stored
from app.api.answering.ask import Ask
from app.api.answering.places import Places, of_answer
from app.api.answering.prompts import PromptReader
from app.api.answering.token_names import TokenNames, completion_logprobs
from app.api.http.errors import error_event
from app.api.openai.echo import Echo
from app.api.openai.stream import DONE
from app.engine.request import TokenInfo
from app.errors import LepoError


class CompletionChunks:
    """Writes the events of one stream. `usage` is JSON text, or empty where the stream shows none."""

    def __init__(self, ask: Ask, model: str, reader: PromptReader, names: TokenNames, echoes: tuple[Echo, ...]) -> None:
        self._ask = ask
        self._names = names
        self._echoes = echoes
        self._ids = bool(ask.fields.return_token_ids)
        shown = [len(echo.text) for echo in echoes] or [0] * len(ask.prompts)
        self._starts = [shown[choice // ask.fields.choices] for choice in range(ask.choices)]
        self._places: dict[int, Places] = {}  # by choice, of those that have begun
        self._reader = reader
        self._head = (
            f'data: {{"id":"{ask.completion_id}","object":"text_completion","created":{ask.created},'
            f'"model":{quoted(model)}'
        )

    def opening(self, choice: int, usage: str) -> str:
        """Write the echoed prompt, and the prompt's ids, when they are asked for."""
        prompt = self._ask.prompts[choice // self._ask.fields.choices]
        ids = f',"prompt_token_ids":{json.dumps(prompt.ids)}' if self._ids else ""
        if not self._echoes:
            return self._chunk(choice, "", usage, more=ids) if ids else ""
        echo = self._echoes[choice // self._ask.fields.choices]
        return self._chunk(choice, echo.text, usage, logprobs=echo.json, more=ids)

    def reasoned(self, choice: int, reading: str, usage: str) -> str:
        """Write the reading of the latent steps, apart from the text."""
        return self._chunk(choice, "", usage, more=f',"reasoning":{quoted(reading)}')

    def delta(self, choice: int, text: str, tokens: tuple[TokenInfo, ...], usage: str) -> str:
        """Write new text."""
        logprobs = "null"
        if self._ask.logprobs:
            places = self._places_of(choice).of([token.token_id for token in tokens])
            logprobs = json.dumps(completion_logprobs(self._names, tokens, places))
        more = f',"token_ids":{json.dumps([token.token_id for token in tokens])}' if self._ids else ""
        return self._chunk(choice, text, usage, logprobs=logprobs, more=more)

    def _places_of(self, choice: int) -> Places:
        if choice not in self._places:
            prompt = self._ask.prompts[choice // self._ask.fields.choices]
            self._places[choice] = of_answer(self._reader, self._names, prompt, self._starts[choice])
        return self._places[choice]

    def last(self, stored: Stored, usage: str) -> str:
        """Write the end of one choice, once it is stored."""
        more = "".join(f',"{key}":{json.dumps(value)}' for key, value in stored.extra.items())
        return self._chunk(stored.choice, "", usage, finish=f'"{stored.shown_reason}"', more=more)

    def total(self, usage: str) -> str:
        """Write the usage of the whole request, for `stream_options.include_usage`, and the end of the stream."""
        return f'{self._head},"choices":[],"usage":{usage}}}\n\n' + DONE if usage else DONE

    def failed(self, error: LepoError) -> str:
        """Write why there is no more."""
        return error_event(error).decode() + DONE

    def _chunk(
        self, choice: int, text: str, usage: str, *, logprobs: str = "null", finish: str = "null", more: str = ""
    ) -> str:
        shown = f',"usage":{usage}' if usage else ""
        return (
            f'{self._head},"choices":[{{"index":{choice},"text":{quoted(text)},"logprobs":{logprobs},'
            f'"finish_reason":{finish}{more}}}]{shown}}}\n\n'
        )
