"""Identifiers: UUIDv7 made here, and the form in which callers see them (`int_0198...`).

Leaves out keys and secrets (`app.store.keys`). A UUIDv7 begins with its time, so rows written one after another stand
next to each other in an index and a page of a listing can continue "after this id".
"""

import os
import re
import time
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

Prefix = Literal["int", "grade", "job", "ckpt", "eval", "swap", "move", "erase", "token", "audit", "sess"]

NANOSECONDS_PER_MILLISECOND: Final = 1_000_000
DIGITS: Final = re.compile("[0-9a-f]{32}")


def uuid7() -> UUID:
    """Make a UUIDv7: 48 bits of milliseconds, 12 bits of the fraction of that millisecond, 62 random bits.

    Ids of one process rise with time to within a quarter of a microsecond (RFC 9562, section 6.2, method 3).
    """
    milliseconds, rest = divmod(time.time_ns(), NANOSECONDS_PER_MILLISECOND)
    fraction = (rest << 12) // NANOSECONDS_PER_MILLISECOND
    noise = int.from_bytes(os.urandom(8), "big") & ((1 << 62) - 1)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | noise)


def first_of(at: datetime, shift_s: float = 0.0) -> UUID:
    """Give the least id of a moment, `shift_s` seconds later: `uuid7` makes none below it from then on."""
    return UUID(int=max(0, int((at.timestamp() + shift_s) * 1000)) << 80)


def show(prefix: Prefix, value: UUID) -> str:
    """Write an id as callers see it: `show("int", ...)` is `int_` and 32 hexadecimal digits."""
    return f"{prefix}_{value.hex}"


def read(prefix: Prefix, text: str) -> UUID:
    """Read what `show` wrote.

    Raises:
        ValueError: `text` is not an id of this kind.

    """
    head, _, digits = text.partition("_")
    if head != prefix or DIGITS.fullmatch(digits) is None:
        raise ValueError(f"{text!r} is not an id of the form {prefix}_<32 hexadecimal digits>")
    return UUID(hex=digits)
