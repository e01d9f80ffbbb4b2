"""When a request is sent again, and after how long.

Again after 408, 409, 429, 502, 503 and 504, and where no answer came. A request is repeated only where that is safe: it
reads, it carries an `Idempotency-Key`, or the service said that it did not begin (429, and 503 with `Retry-After`).
`Retry-After` is waited for; without it the wait doubles, with a random part so that clients do not come back together.
"""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import httpx

PASSING: Final = frozenset({408, 409, 429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Retries:
    """How patient a client is. Example: `Retries(times=5, longest_s=60)`."""

    times: int = 3  # sent again at most so often, >= 0
    first_s: float = 0.5  # wait before the first repetition, seconds
    longest_s: float = 30.0  # no wait is longer; a `Retry-After` beyond it is not waited for, and the error is raised

    def wait_after(self, response: httpx.Response | None, attempt: int, *, safe: bool) -> float | None:
        """Say how many seconds to wait before sending again; None: do not.

        Args:
            response: what came; None where nothing did.
            attempt: how often it was sent already, 1 or more.
            safe: whether doing it twice comes to the same.

        """
        if attempt > self.times:
            return None
        if response is None:
            return self._growing(attempt) if safe else None
        if response.status_code not in PASSING:
            return None
        asked = seconds_asked(response.headers.get("retry-after"))
        not_begun = response.status_code == 429 or (response.status_code == 503 and asked is not None)
        if not (safe or not_begun):
            return None
        if asked is None:
            return self._growing(attempt)
        return asked if asked <= self.longest_s else None

    def _growing(self, attempt: int) -> float:
        return min(self.longest_s, self.first_s * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)  # noqa: S311  no secret


def seconds_asked(header: str | None) -> float | None:
    """Read `Retry-After`, seconds or a date; None where it says nothing that can be read."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        until = parsedate_to_datetime(header)
    except ValueError:
        return None
    seconds: float = (until - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds)
