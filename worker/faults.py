"""Whose fault it is that a job ended, and what that means: the one table of how an update can fail.

    fault            examples                                   claims     then
    data             an unreadable rollout, a diverged answer   spent      noted answer by answer, before the update
    infrastructure   disk, memory, database, a bug              released   a pause that doubles, and again
    operator         cancel, freeze, rollback, a restart        released   what the operator wants
    policy           a guard or the gate says no                released   once more, smaller and slower; then spent

Only what the data itself did to an update can cost data. An error nobody thought of is the infrastructure's: learning
goes on trying, ever more slowly, and the job's row says what happened. Leaves out the writing (`worker.job`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from safetensors import SafetensorError
from sqlalchemy.exc import StatementError

from app.errors import Cancelled, Conflict, Unavailable
from app.store.claims import Settlement
from app.store.jobs import Fault, Outcome
from training.memory.room import says_short_of_memory
from training.optimization.health import UpdateRejected


class Stopped(Exception):
    """This process was asked to end."""


class Refused(Exception):
    """The gate says no to a candidate.

    Args:
        words: why.
        better: the version that should serve, where what serves is itself shown to be worse.

    """

    def __init__(self, words: str, better: int | None = None) -> None:
        super().__init__(words)
        self.better = better


@dataclass(frozen=True, slots=True)
class End:
    """How a job ends."""

    status: Outcome
    verdict: str | None
    fault: Fault
    settlement: Settlement  # what becomes of the answers it holds


CANCELLED: Final = End("cancelled", "cancelled", "operator", "release")
INFRASTRUCTURE: Final = End("failed", None, "infrastructure", "release")
ENDS: Final[Mapping[type[BaseException], End]] = MappingProxyType(
    {
        Cancelled: CANCELLED,
        Conflict: End("cancelled", "overtaken", "operator", "release"),  # another policy serves by now, or is pinned
        Stopped: End("failed", "stopped", "operator", "release"),
        UpdateRejected: End("failed", "refused", "policy", "refuse"),
        Refused: End("succeeded", "refused", "policy", "refuse"),
    }
)


def end_of(error: BaseException) -> End:
    """Say how a job ends that met an error."""
    return next((end for kind, end in ENDS.items() if isinstance(error, kind)), INFRASTRUCTURE)


def environmental(error: BaseException) -> bool:
    """Whether an error is a shortage that may pass by itself: disk, memory, a part that is away."""
    if isinstance(error, StatementError) and error.orig is not None:  # whatever a statement's parameters met on the way
        error = error.orig
    if isinstance(error, SafetensorError):  # writes weights by itself, and has its own word for a full disk
        return "I/O error" in str(error)
    return isinstance(error, OSError | Unavailable) or says_short_of_memory(error)
