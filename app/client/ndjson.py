"""JSON lines out of pieces of bytes. Lines end with a newline and nothing else: texts hold U+2028 and its kin."""

import json
from collections.abc import Iterator
from typing import Any


class Lines:
    """What was not a whole line yet is kept for the next piece."""

    def __init__(self) -> None:
        self._rest = b""

    def piece(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Take a piece, and give the objects that it completes."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            if line.strip():
                yield json.loads(line)
