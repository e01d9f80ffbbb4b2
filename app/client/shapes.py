"""What the service gives back, as values. What a newer service adds is left aside; `raw` has it where there is one."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of an answer that is being streamed."""

    choice: int  # which answer, from 0
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer, committed: it can be graded from now on."""

    id: str  # int_<32 hex>
    text: str  # "" where the model called tools alone
    finish_reason: str  # stop, length, tool_calls
    policy_version: int  # of the policy that gave it
    choice: int  # which of the answers to one request, from 0
    raw: Mapping[str, Any]  # the choice as it came


@dataclass(frozen=True, slots=True)
class Reward:
    """What the grades of an answer come to."""

    value: float  # 0 to 1
    graders: int  # how many count


@dataclass(frozen=True, slots=True)
class Grade:
    """One entry on an answer."""

    id: str  # grade_<32 hex>
    interaction_id: str
    state: str  # graded, corrected, retracted, ...
    value: float | None  # 0 to 1
    comment: str | None
    correction: str | None
    reward: Reward | None  # of the answer, with this entry
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Interaction:
    """An answer as the service remembers it."""

    id: str  # int_<32 hex>
    created_at: datetime
    answer: str
    policy_version: int
    learnable: bool
    reward: Reward | None
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Session:
    """Turns that belong together, as an episode of an agent."""

    id: str  # sess_<32 hex>
    name: str  # as its key calls it
    turns: int
    created_at: datetime
    raw: Mapping[str, Any]  # with `data`, its turns, where one was read


@dataclass(frozen=True, slots=True)
class SessionGrade:
    """One entry on a whole session."""

    id: str  # grade_<32 hex>
    session_id: str
    state: str  # graded, retracted
    value: float | None  # 0 to 1
    rule: str  # last_turn, all_turns, discounted: which turns share it
    raw: Mapping[str, Any]  # with `turns`, the share of each


@dataclass(frozen=True, slots=True)
class Policy:
    """A checkpoint."""

    id: str  # ckpt_<32 hex>
    version: int
    state: str  # candidate, held, shadow, canary, serving, ...
    created_at: datetime
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Move:
    """A policy after it was moved."""

    policy: Policy  # what serves now
    changed: bool  # False: it was so already


@dataclass(frozen=True, slots=True)
class Job:
    """An update of the policy."""

    id: str  # job_<32 hex>
    status: str  # queued, running, succeeded, failed, cancelled
    phase: str | None  # what it is doing
    verdict: str | None  # promoted, refused, ... once it has ended
    error: str | None
    raw: Mapping[str, Any]

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in {"succeeded", "failed", "cancelled"}


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a job's diary."""

    id: int  # grows
    kind: str
    message: str
    created_at: datetime
    data: Mapping[str, Any] | None


def read_answer(choice: Mapping[str, Any]) -> Answer:
    """Read a choice of a chat completion."""
    return Answer(
        id=choice["interaction_id"],
        text=choice["message"].get("content") or "",
        finish_reason=choice["finish_reason"],
        policy_version=choice["policy_version"],
        choice=choice["index"],
        raw=choice,
    )


def read_answers(body: Mapping[str, Any]) -> list[Answer]:
    """Read a chat completion."""
    return [read_answer(choice) for choice in body["choices"]]


def read_reward(body: Mapping[str, Any] | None) -> Reward | None:
    """Read what grades come to."""
    return None if body is None else Reward(body["value"], body["graders"])


def read_grade(body: Mapping[str, Any]) -> Grade:
    """Read an entry."""
    plain = ("id", "interaction_id", "state", "value", "comment", "correction")
    return Grade(**{name: body[name] for name in plain}, reward=read_reward(body.get("reward")), raw=body)


def read_interaction(body: Mapping[str, Any]) -> Interaction:
    """Read an answer of the listing."""
    return Interaction(
        id=body["id"],
        created_at=datetime.fromisoformat(body["created_at"]),
        answer=body["answer"],
        policy_version=body["policy_version"],
        learnable=body["learnable"],
        reward=read_reward(body["reward"]),
        raw=body,
    )


def read_session(body: Mapping[str, Any]) -> Session:
    """Read a session."""
    plain = {name: body[name] for name in ("id", "name", "turns")}
    return Session(**plain, created_at=datetime.fromisoformat(body["created_at"]), raw=body)


def read_session_grade(body: Mapping[str, Any]) -> SessionGrade:
    """Read an entry on a session."""
    plain = {name: body[name] for name in ("id", "session_id", "state", "value")}
    return SessionGrade(**plain, rule=body["credit"]["rule"], raw=body)


def read_policy(body: Mapping[str, Any]) -> Policy:
    """Read a checkpoint."""
    plain = {name: body[name] for name in ("id", "version", "state")}
    return Policy(**plain, created_at=datetime.fromisoformat(body["created_at"]), raw=body)


def read_move(body: Mapping[str, Any]) -> Move:
    """Read what a move came to."""
    return Move(read_policy(body), body["changed"])


def read_job(body: Mapping[str, Any]) -> Job:
    """Read a job."""
    return Job(**{name: body[name] for name in ("id", "status", "phase", "verdict", "error")}, raw=body)


def read_event(body: Mapping[str, Any]) -> Event:
    """Read a line of a diary."""
    plain = {name: body[name] for name in ("id", "kind", "message", "data")}
    return Event(**plain, created_at=datetime.fromisoformat(body["created_at"]))
