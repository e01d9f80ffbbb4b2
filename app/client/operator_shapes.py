"""What operators get back, as values; `raw` has the rest. Leaves out what everybody gets (`app.client.shapes`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Key:
    """An API key without its text."""

    id: str  # the middle part of lepo-<id>-<secret>
    name: str
    project: str | None  # None: it rules the service
    scopes: Sequence[str]  # infer, grade, admin
    trust: str  # ordinary, trusted, quarantined
    expires_at: datetime | None
    revoked_at: datetime | None
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was made a moment ago."""

    key: Key
    text: str  # lepo-<id>-<secret>; it is told this once


@dataclass(frozen=True, slots=True)
class Project:
    """A project with what it uses."""

    id: str
    limits: Mapping[str, float | None]  # None: as the settings say; 0: no bound
    stored_bytes: int
    grading_seconds_today: float
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Learning:
    """Whether the service learns."""

    running: bool  # an update runs now
    waiting_for: str | None  # in words; None: an update runs, or could begin
    answers_waiting: int  # graded, and not learned from
    frozen: str | None  # why nothing is learned; None: it is not frozen
    pinned: str | None  # why what serves may not change; None: it may
    changed: bool  # by the call that gave this; False: it was so already
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class HeldOutSet:
    """Held-out prompts that were uploaded."""

    version: int  # from 1
    digest: str  # SHA-256 of the lines, hexadecimal
    prompts: int
    active: bool  # the gate asks this one
    created_by: str  # a key's id
    created_at: datetime
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Erasure:
    """A removal of somebody's data."""

    finished: bool  # False: ask again
    removed: Mapping[str, int]  # rows by what they were
    policies: Sequence[Mapping[str, Any]]  # made from what is removed: version, state, answers
    raw: Mapping[str, Any]


def read_key(body: Mapping[str, Any]) -> Key:
    """Read a key."""
    plain = {name: body[name] for name in ("id", "name", "project", "scopes", "trust")}
    return Key(**plain, expires_at=moment(body["expires_at"]), revoked_at=moment(body["revoked_at"]), raw=body)


def read_new_key(body: Mapping[str, Any]) -> NewKey:
    """Read a key with its text."""
    return NewKey(read_key(body), body["key"])


def read_project(body: Mapping[str, Any]) -> Project:
    """Read a project."""
    return Project(body["id"], body["limits"], **body["usage"], raw=body)


def read_learning(body: Mapping[str, Any]) -> Learning:
    """Read the state of learning."""
    return Learning(
        running=body["running"],
        waiting_for=body["waiting_for"],
        answers_waiting=body["answers_waiting"],
        frozen=None if body["frozen"] is None else body["frozen"]["reason"],
        pinned=None if body["pinned"] is None else body["pinned"]["reason"],
        changed=body.get("changed", False),
        raw=body,
    )


def read_held_out(body: Mapping[str, Any]) -> HeldOutSet:
    """Read a held-out set."""
    plain = {name: body[name] for name in ("version", "digest", "prompts", "active", "created_by")}
    return HeldOutSet(**plain, created_at=datetime.fromisoformat(body["created_at"]), raw=body)


def read_erasure(body: Mapping[str, Any]) -> Erasure:
    """Read a removal."""
    return Erasure(body["finished"], body["removed"], body["policies"], raw=body)


def moment(text: str | None) -> datetime | None:
    """Read a time that may be missing."""
    return None if text is None else datetime.fromisoformat(text)
