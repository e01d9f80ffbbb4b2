"""The wire under the application: bounds on what may arrive before a request is one, and on what may stay unread.

uvicorn's parser takes headers without end, waits for the rest of a request for ever, keeps a response for a client that
does not read it, and answers what is not HTTP in plain text; a stranger without a key could use each against the
server. Refusals are in OpenAI's shape. Leaves out bodies (`app.api.http.limits`), and how
many connections there may be: that is the proxy's, or `ulimit`'s.
"""

import asyncio
import json
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.http.errors import error_body
from app.errors import BadRequest, LepoError

LONGEST_HEAD: Final = 65_536  # bytes of request line and headers
ARRIVAL_S: Final = 60.0  # from a request's first byte to its last
UNREAD_S: Final = 60.0  # within which a client must take some more of what waits for it
LEAST_READ: Final = 1024  # bytes that are "some more"


class HeadTooLarge(LepoError):
    """The headers do not end."""

    status = 431
    default_code = "headers_too_large"


class TooSlow(LepoError):
    """The request did not arrive in time."""

    status = 408
    default_code = "request_timeout"


class Wire(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head = 0  # bytes read in a row without the end of a head
        self._in_body = False
        self._deadline: asyncio.TimerHandle | None = None  # of the request that is arriving
        self._reading: asyncio.TimerHandle | None = None  # of the client, while something waits for it
        self._unread = 0  # bytes that waited when it was last looked at

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the parent does
        """Start waiting for a request."""
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._arrived()
        self._read()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, within the bounds."""
        self._expect()
        self._head += len(data)
        super().data_received(data)
        if not self._in_body and self._head > LONGEST_HEAD:
            self._refuse(HeadTooLarge(f"The request's headers are larger than {LONGEST_HEAD} bytes."))

    def on_message_begin(self) -> None:
        """Start on a request."""
        super().on_message_begin()
        self._expect()

    def on_headers_complete(self) -> None:
        """Go from the head to the body."""
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Stop waiting: the request is here."""
        self._in_body = False
        self._head = 0
        self._arrived()
        super().on_message_complete()

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        """Go on writing."""
        self._read()
        super().resume_writing()

    def on_response_complete(self) -> None:
        """End a response; what the client has not taken of it may stay for a while only."""
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self._await_reader()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._refuse(BadRequest(msg, code="invalid_http"))

    def _expect(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(ARRIVAL_S, self._too_slow)

    def _arrived(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _await_reader(self) -> None:
        if self._reading is None:
            self._unread = self.transport.get_write_buffer_size()
            self._reading = self.loop.call_later(UNREAD_S, self._not_read)

    def _read(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _not_read(self) -> None:
        """Hang up on a client that does not read; one that reads slowly has as long again."""
        self._reading = None
        waits = self.transport.get_write_buffer_size()
        if waits > self._unread - LEAST_READ and waits:
            self.transport.abort()
        elif waits:
            self._await_reader()

    def _too_slow(self) -> None:
        """Give up a request whose end has not come; an answer under way is left alone."""
        self._deadline = None
        if self._head == 0:
            self.transport.close()
        elif self.flow.read_paused:  # it waits behind another answer, not for its client
            self._expect()
        elif self._in_body or not self._answering():
            self._refuse(TooSlow(f"The request did not arrive within {ARRIVAL_S:.0f} s."))

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, error: LepoError) -> None:
        """Answer, unless another answer is being written, and hang up."""
        if self.transport.is_closing():
            return
        if not self.pipeline and not (self._answering() and self.cycle.response_started):
            body = json.dumps(error_body(error)).encode()
            head = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n"
            fields = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            self.transport.write((head + fields).encode() + body)
        self.transport.close()
