"""Who a request comes from, and the callers found good just now.

A key found good is believed for a few seconds, so that revoking one is quick and answering does not read the key's row
each time; only the digest of what was sent is remembered. Leaves out finding out (`app.api.door.auth`) and keys found
bad (`app.api.door.strangers`).
"""

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from app.errors import TooMany
from app.store.keys import Scope
from app.store.projects import Bounds, Used
from app.store.tenants import DEFAULT

BELIEVED_S: Final = 3.0
MOST_BELIEVED: Final = 10_000
UNBOUND: Final = Bounds()
NOTHING: Final = Used()
QUOTA_AGAIN_S: Final = 60.0  # after which a request over a quota may be worth another try


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever holds the key or token that came with a request."""

    key_id: str  # the key's public id; for a grading token, of the key that made it
    scopes: frozenset[str]  # infer, grade, admin
    only: UUID | None = None  # the one interaction a grading token may grade
    token: UUID | None = None  # that token's id
    project: str | None = DEFAULT  # whose key it is; None: an admin key of the service
    bounds: Bounds = UNBOUND  # what it is held to
    used: Used = NOTHING  # what its project used of it, some seconds ago

    def may(self, scope: Scope) -> bool:
        """Tell whether this is allowed; `admin` may do everything, within its project."""
        return scope in self.scopes or "admin" in self.scopes

    def sees(self, project: str) -> bool:
        """Tell whether there is anything in a project for this caller."""
        return self.project in {None, project}

    @property
    def rules(self) -> bool:
        """Whether it may administer the whole service."""
        return self.project is None and "admin" in self.scopes

    @property
    def home(self) -> str:
        """The project that what it does belongs to."""
        return self.project or DEFAULT

    @property
    def grader_source(self) -> str:
        """Class of the graders this caller names: of one who may grade, or of one who may only ask."""
        return "scoped" if self.may("grade") else "request"

    def require_room(self) -> None:
        """Refuse to keep more for a project that has used up its bytes.

        Raises:
            TooMany: it has.

        """
        most = self.bounds.stored_bytes
        if most and self.used.stored_bytes >= most:
            raise TooMany(
                f"The project {self.home} keeps {self.used.stored_bytes} bytes and may keep {most} "
                "(LEPO_PROJECT_STORED_BYTES): delete answers, or have it raised.",
                code="insufficient_quota",
                retry_after=QUOTA_AGAIN_S,
            )

    def require_grading_time(self) -> None:
        """Refuse to run a grader for a project whose graders have run long enough today.

        Raises:
            TooMany: they have.

        """
        most = self.bounds.grading_seconds
        if most and self.used.grading_seconds >= most:
            raise TooMany(
                f"Graders ran for {self.used.grading_seconds:.0f} s today for the project {self.home}, which may have "
                f"{most:g} s a day (LEPO_PROJECT_GRADING_SECONDS): ask without a grader, or come back tomorrow.",
                param="grader",
                code="insufficient_quota",
                retry_after=QUOTA_AGAIN_S,
            )


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

    def knows(self, digest: bytes) -> bool:
        """Tell whether it was found good lately, be it some time ago."""
        return digest in self._callers

    def forget(self) -> None:
        """Ask the store again for everyone: something about a key changed here."""
        self._callers = OrderedDict((digest, (caller, 0.0)) for digest, (caller, _) in self._callers.items())
