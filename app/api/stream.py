"""A streamed response: news of the answers in, server-sent events out, a choice's end only after its commit.

The status line leaves with the first news, so that what goes wrong before it is an ordinary error response. After a
client has left, every choice is still seen into the store. Leaves out how a chunk is written (`chat_chunks`,
`completion_chunks`).
"""

import json
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.answers import Answers, Said, Stored
from app.api.disconnect import watched
from app.api.errors import error_event, error_response
from app.api.usage import Usage
from app.engine.request import Delta, TokenInfo

DONE = "data: [DONE]\n\n"


class Chunks(Protocol):
    """Writes the events of one endpoint; `usage` is JSON text, or empty where none is shown."""

    def opening(self, choice: int, usage: str) -> str:
        """Write what comes before any text of a choice."""
        ...

    def reasoned(self, choice: int, reading: str, usage: str) -> str:
        """Write the reading of the latent steps."""
        ...

    def delta(self, choice: int, text: str, tokens: tuple[TokenInfo, ...], usage: str) -> str:
        """Write new text."""
        ...

    def last(self, choice: int, finish: str, extra: dict[str, Any], usage: str) -> str:
        """Write the end of a choice."""
        ...

    def total(self, usage: str) -> str:
        """Write the usage of the whole request."""
        ...


class AnswerStream(Response):
    """Server-sent events of one request whose answers are already submitted."""

    def __init__(self, answers: Answers, chunks: Chunks) -> None:
        self.status_code = 200
        self.media_type = "text/event-stream"
        self.background = None
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._answers = answers
        self._chunks = chunks
        self._usage = Usage(answers.ask.prompt_tokens, answers.ask.choices)
        self._started = False
        options = answers.ask.fields.stream_options
        self._include_usage = options is not None and options.include_usage
        self._continuous_usage = self._include_usage and options is not None and options.continuous_usage_stats

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            async with watched(receive, self._answers.cancel):
                await self._run(send)
                if self._answers.failure is not None and not self._started:
                    await error_response(self._answers.failure)(scope, receive, send)
        finally:
            await self._answers.finish()

    async def _run(self, send: Send) -> None:
        """Send events until every choice has ended, or one could not."""
        while self._answers.open and self._answers.failure is None:
            text = "".join([self._written(item) for item in await self._answers.take()])
            if self._answers.failure is None and (text or not self._started):
                await self._send(send, text.encode())
        if self._answers.failure is None:
            total = self._chunks.total(json.dumps(self._usage.as_json())) if self._include_usage else ""
            await self._send(send, (total + DONE).encode(), last=True)
        elif self._started:
            await self._send(send, error_event(self._answers.failure) + DONE.encode(), last=True)

    async def _send(self, send: Send, body: bytes, *, last: bool = False) -> None:
        """Send a piece of the body; before the first, the status line and each choice's opening."""
        if not self._started:
            self._started = True
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            choices = range(self._answers.ask.choices)
            body = "".join([self._chunks.opening(choice, self._shown_usage()) for choice in choices]).encode() + body
        await send({"type": "http.response.body", "body": body, "more_body": not last})

    def _written(self, item: Said | Stored) -> str:
        """Write one piece of news; nothing for text that is not there yet."""
        if isinstance(item, Stored):
            rollout = item.finished.rollout
            self._usage.settle(item.choice, rollout.latent_length, rollout.answer_length)
            return self._chunks.last(item.choice, item.shown_reason, item.extra, self._shown_usage())
        if not isinstance(item.event, Delta):
            self._usage.grow(item.choice, latents=len(item.event.reading_ids))
            return self._chunks.reasoned(item.choice, item.event.reading, self._shown_usage())
        self._usage.grow(item.choice, answer=len(item.event.tokens))
        if not item.event.text and not self._answers.ask.logprobs:
            return ""
        return self._chunks.delta(item.choice, item.event.text, item.event.tokens, self._shown_usage())

    def _shown_usage(self) -> str:
        """Usage so far, as JSON, where the client wants to see it grow; null where only the total was asked for."""
        if self._continuous_usage:
            return json.dumps(self._usage.as_json())
        return "null" if self._include_usage else ""
