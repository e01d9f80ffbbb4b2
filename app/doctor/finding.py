"""One thing that was looked at, and what came of it."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Example: Finding("port", "fail", "another program listens on 127.0.0.1:8000", "stop it, or set LEPO_PORT")."""

    check: str  # a word for what was looked at
    state: State  # warn: it works, and something will not go as wished; skip: it could not be looked at
    says: str
    do: str | None = None  # what to do about it; always there where the state is warn or fail
