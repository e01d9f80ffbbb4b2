"""What was written for a client and not taken yet: bytes in, bytes out, never waiting on the way in.

Leaves out how much is too much: whoever writes looks at `unread`.
"""

import asyncio
from collections import deque
from typing import Final

AT_ONCE: Final = 65_536  # bytes handed over together; more would only lie in the next buffer


class Outbox:
    """Used on the event loop by one writer and one reader."""

    def __init__(self) -> None:
        self.unread = 0  # bytes
        self.used = False  # whether anything was ever put in, be it of no length
        self._pieces: deque[bytes] = deque()
        self._closed = False
        self._changed = asyncio.Event()

    def put(self, piece: bytes) -> None:
        """Add something."""
        self.used = True
        self.unread += len(piece)
        self._pieces.append(piece)
        self._changed.set()

    def clear(self) -> None:
        """Throw away what was not taken."""
        self._pieces.clear()
        self.unread = 0

    def close(self) -> None:
        """Say that nothing more comes."""
        self._closed = True
        self._changed.set()

    async def take(self) -> tuple[bytes, bool]:
        """Wait for something; gives it, and whether it was the last."""
        while not self._pieces and not self._closed:
            await self._changed.wait()
            self._changed.clear()
        taken: list[bytes] = []
        size = 0
        while self._pieces and size < AT_ONCE:
            taken.append(self._pieces.popleft())
            size += len(taken[-1])
        self.unread -= size
        return b"".join(taken), self._closed and not self._pieces
