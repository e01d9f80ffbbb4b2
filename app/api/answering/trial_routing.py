"""Who is served by a policy on trial: a sticky share of sessions, the same on every server.

A request belongs to a session (`app.api.answering.sessions`), else to a user (`user`), else to its API key. The hash of
that and of the policy's id decides, so one session meets one policy for as long as a trial lasts, whichever replica
answers, and another trial draws other sessions. Leaves out loading the policy
(`app.api.policy.watch`) and what is made of its grades (`worker.trial`).
"""

import hashlib
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from app.errors import BadRequest, Conflict

WANTED: Final = "X-Policy-Version"  # header by which an admin asks one version in memory, past any trial


@dataclass(frozen=True, slots=True)
class OnTrial:
    """A policy on trial that this server holds in memory beside the serving one."""

    checkpoint_id: UUID
    version: int
    state: Literal["shadow", "canary"]


def unit_of(session: str | None, user: str | None, key_id: str | None) -> str:
    """Name what a request belongs to; a session stays one when its key is replaced."""
    if session:
        return f"session/{session}"
    return f"user/{user}" if user else f"key/{key_id or ''}"


def falls_in(trial: OnTrial, unit: str, share: float) -> bool:
    """Whether a unit is among the share that a trial draws."""
    digest = hashlib.sha256(f"{trial.checkpoint_id.hex}/{unit}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def version_for(trial: OnTrial | None, unit: str, share: float) -> int | None:
    """Say which version a request asks the engine for; None: whatever serves."""
    if trial is None or trial.state != "canary" or not falls_in(trial, unit, share):
        return None
    return trial.version


def wanted_version(text: str | None, serving: int, trial: OnTrial | None) -> int | None:
    """Read which version a request wants to be answered by; None: whichever a trial or the service chooses.

    Raises:
        BadRequest: that is no version.
        Conflict: it is not in memory.

    """
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise BadRequest(f"{WANTED} takes the version of a policy, such as 7.", param=WANTED)
    resident = {serving} if trial is None else {serving, trial.version}
    if int(text) not in resident:
        raise Conflict(
            f"Version {int(text)} is not in memory; {', '.join(map(str, sorted(resident)))} is. Put it into shadow or "
            "canary to ask it.",
            param=WANTED,
            code="not_resident",
        )
    return int(text)
