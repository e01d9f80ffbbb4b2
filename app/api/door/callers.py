"""Who a request comes from, and the callers found good just now.

A key found good is believed for a few seconds, so that revoking one is quick and answering does not read the key's row
each time; only the digest of what was sent is remembered. Leaves out finding out (`app.api.door.auth`).
"""

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from app.store.keys import Scope

BELIEVED_S: Final = 3.0
MOST_BELIEVED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever holds the key or token that came with a request."""

    key_id: str  # the key's public id; for a grading token, of the key that made it
    scopes: frozenset[str]  # infer, grade, admin
    only: UUID | None = None  # the one interaction a grading token may grade

    def may(self, scope: Scope) -> bool:
        """Tell whether this is allowed; `admin` may do everything."""
        return scope in self.scopes or "admin" in self.scopes

    @property
    def grader_source(self) -> str:
        """Class of the graders this caller names: of one who may grade, or of one who may only ask."""
        return "scoped" if self.may("grade") else "request"


class Believed:
    """Good keys of the last seconds, by digest."""

    def __init__(self) -> None:
        self._callers: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()

    def get(self, digest: bytes) -> Caller | None:
        """Give the caller, if it was found good just now."""
        found = self._callers.get(digest)
        return found[0] if found is not None and found[1] > time.monotonic() else None

    def put(self, digest: bytes, caller: Caller) -> None:
        """Believe a caller for a while; the oldest is forgotten beyond the bound."""
        self._callers[digest] = (caller, time.monotonic() + BELIEVED_S)
        self._callers.move_to_end(digest)
        if len(self._callers) > MOST_BELIEVED:
            self._callers.popitem(last=False)

    def forget(self) -> None:
        """Ask the store again for everyone: a key was revoked here."""
        self._callers.clear()
