"""A streamed response: news of the answers in, server-sent events out, a choice's end only after its commit.

Two tasks, so that no reader holds up a commit: one follows the answers and writes their events down, the other hands
them to the client as fast as it reads. The status line leaves with the first news, so that what goes wrong before it is
an ordinary error response. After a client has left, every choice is still seen into the store. Leaves out how a chunk
is written (`chat_chunks`, `completion_chunks`), and ending a connection that nobody reads (`app.api.http.wire`).
"""

import asyncio
import json
from typing import Final, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.answering.answers import Answers, Said, Stored
from app.api.http.disconnect import watched
from app.api.http.errors import error_response
from app.api.http.outbox import Outbox
from app.api.openai.usage import Usage
from app.engine.request import Delta, TokenInfo
from app.errors import LepoError

DONE = "data: [DONE]\n\n"
AT_ONCE: Final = 8  # pieces of news that are written in a row
MOST_UNREAD: Final = 4 << 20  # bytes written for a client that has not taken them yet


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

    def last(self, stored: Stored, usage: str) -> str:
        """Write the end of a choice."""
        ...

    def total(self, usage: str) -> str:
        """Write the end of the stream, after the usage of the whole request where there is any to show."""
        ...

    def failed(self, error: LepoError) -> str:
        """Write the end of a stream that cannot go on."""
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
        self._outbox = Outbox()
        self._opening = 0  # bytes of openings yet to be taken: an echoed prompt comes at once, however one reads
        options = answers.ask.fields.stream_options
        self._include_usage = options is not None and options.include_usage
        self._continuous_usage = self._include_usage and options is not None and options.continuous_usage_stats

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        sending = asyncio.create_task(self._send(send))
        try:
            async with watched(receive, self._answers.cancel):
                await self._follow()
                if self._answers.failure is not None and not self._outbox.used:
                    await error_response(self._answers.failure)(scope, receive, send)
                await self._answers.finish()  # all is stored, however far the client has read
                self._outbox.close()
                await sending
        finally:
            sending.cancel()
            await self._answers.finish()

    async def _follow(self) -> None:
        """Write events until every choice has ended, or one could not; never waits for the client."""
        answers = self._answers
        while answers.open and answers.failure is None:
            news = await answers.take()
            if answers.failure is None and not self._outbox.used:
                await self._open()
            for place in range(0, len(news), AT_ONCE):
                text = "".join([self._written(item) for item in news[place : place + AT_ONCE]])
                if text and self._outbox.used:  # what was said before a failure stands
                    self._outbox.put(text.encode())
                if len(news) > place + AT_ONCE:
                    await asyncio.sleep(0)  # others have their turn: log-probabilities take their time
            if self._outbox.unread > MOST_UNREAD + self._opening:
                self._outbox.clear()
                words = f"The client is more than {MOST_UNREAD >> 20} MiB behind; read faster, or ask for less."
                answers.fail(LepoError(words, code="client_too_slow"))
        if answers.failure is None:
            total = self._chunks.total(json.dumps(self._usage.as_json()) if self._include_usage else "")
            self._outbox.put(total.encode())
        elif self._outbox.used:
            self._outbox.put(self._chunks.failed(answers.failure).encode())

    async def _open(self) -> None:
        """Write each choice's opening, before any other event; between two of them others have their turn."""
        for choice in range(self._answers.ask.choices):
            self._outbox.put(self._chunks.opening(choice, self._shown_usage()).encode())
            await asyncio.sleep(0)
        self._opening = self._outbox.unread

    async def _send(self, send: Send) -> None:
        """Hand to the client what was written for it, as fast as it reads."""
        body, last = await self._outbox.take()
        if not self._outbox.used:
            return
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": body, "more_body": not last})
        while not last:
            body, last = await self._outbox.take()
            await send({"type": "http.response.body", "body": body, "more_body": not last})

    def _written(self, item: Said | Stored) -> str:
        """Write one piece of news; nothing for text that is not there yet."""
        if isinstance(item, Stored):
            rollout = item.finished.rollout
            self._usage.settle(item.choice, rollout.latent_length, rollout.answer_length)
            return self._chunks.last(item, self._shown_usage())
        if not isinstance(item.event, Delta):
            self._usage.grow(item.choice, latents=len(item.event.reading_ids))
            return self._chunks.reasoned(item.choice, item.event.reading, self._shown_usage())
        self._usage.grow(item.choice, answer=len(item.event.tokens))
        ask = self._answers.ask
        if not item.event.text and not ask.logprobs and not (ask.fields.return_token_ids and item.event.tokens):
            return ""
        return self._chunks.delta(item.choice, item.event.text, item.event.tokens, self._shown_usage())

    def _shown_usage(self) -> str:
        """Usage so far, as JSON, where the client wants to see it grow; null where only the total was asked for."""
        if self._continuous_usage:
            return json.dumps(self._usage.as_json())
        return "null" if self._include_usage else ""
