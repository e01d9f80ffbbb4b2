"""Every request as a value: what is sent, whether it may be sent twice, and how its answer is read.

Leaves out sending (`sync`, `aio`). Requests that change something carry an `Idempotency-Key` of their
own, so a repetition after a lost answer does nothing twice.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from app.client import shapes
from app.client.shapes import Answer, Event, Grade, Interaction, Job, Move, Policy, Session, SessionGrade

T = TypeVar("T")
Messages = str | Sequence[Mapping[str, Any]]  # a question, or a conversation


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request."""

    method: str
    path: str
    read: Callable[[Any], T]  # from the answer's JSON
    body: Mapping[str, Any] | None = None  # sent as JSON
    text: str | None = None  # sent as it is, in place of JSON
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def safe(self) -> bool:
        """Whether it may be sent twice."""
        return self.method == "GET" or "Idempotency-Key" in self.headers


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a listing, and the call that gets the next one."""

    items: list[T]
    rest: "Call[Page[T]] | None"


def answer(question: Messages, *, stream: bool = False, **fields: Any) -> Call[list[Answer]]:
    """Ask. `fields` are those of a chat request (`n`, `temperature`, `latent`, `grader`, `user`, ...)."""
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else list(question)
    body = {"model": "lepo", "messages": messages, **fields, **({"stream": True} if stream else {})}
    return Call("POST", "/v1/chat/completions", shapes.read_answers, body)


def grade(
    answer_id: str,
    value: float | bool | None,
    *,
    correction: str | None = None,
    comment: str | None = None,
    grader: str | None = None,
    kind: str = "client",
) -> Call[Grade]:
    """Grade an answer, or say what it should have been, or both; `grader` names who grades among those of one key."""
    given = {"value": value, "correction": correction, "comment": comment}
    body = {name: one for name, one in given.items() if one is not None}
    named = {"kind": kind, **({} if grader is None else {"id": grader})}
    return once("POST", f"/v1/interactions/{part(answer_id)}/grades", shapes.read_grade, {**body, "grader": named})


def take_back(answer_id: str, *, grader: str | None = None, kind: str = "client") -> Call[Grade]:
    """Take a grade back."""
    call = once("DELETE", f"/v1/interactions/{part(answer_id)}/grades", shapes.read_grade)
    return replace(call, params=given_of(kind=kind, id=grader))


def grading_token(answer_id: str, expires_in_s: int) -> Call[str]:
    """Make a token with which a browser grades this one answer."""
    path = f"/v1/interactions/{part(answer_id)}/grading_tokens"
    return Call("POST", path, lambda body: str(body["token"]), {"expires_in": expires_in_s})


def interaction(answer_id: str) -> Call[Interaction]:
    """Read an answer."""
    return Call("GET", f"/v1/interactions/{part(answer_id)}", shapes.read_interaction)


def interactions(**filters: Any) -> Call[Page[Interaction]]:
    """List answers, the newest first. Filters: `since`, `until`, `graded`, `policy_version`, `user`, `limit`, ..."""
    return paged("/v1/interactions", shapes.read_interaction, filters)


def session(name: str) -> Call[Session]:
    """Read a session with its turns, by your name for it or its id."""
    return Call("GET", f"/v1/sessions/{part(name)}", shapes.read_session)


def sessions(**filters: Any) -> Call[Page[Session]]:
    """List sessions, the newest first. Filters: `name`, `key`, `limit`."""
    return paged("/v1/sessions", shapes.read_session, filters)


def grade_session(
    name: str,
    value: float | bool,
    *,
    credit: str | None = None,
    discount: float | None = None,
    comment: str | None = None,
    grader: str | None = None,
) -> Call[SessionGrade]:
    """Grade a whole session; `credit` says which of its turns share the grade."""
    given = {"credit": credit, "discount": discount, "comment": comment}
    body = {"value": value, **{one: what for one, what in given.items() if what is not None}}
    named = {"kind": "client", **({} if grader is None else {"id": grader})}
    path = f"/v1/sessions/{part(name)}/grades"
    return once("POST", path, shapes.read_session_grade, {**body, "grader": named})


def policies(**filters: Any) -> Call[list[Policy]]:
    """List policies, the newest first."""
    return Call("GET", "/v1/admin/checkpoints", listed(shapes.read_policy), params=given_of(**filters))


def promote(policy: str | int, reason: str, *, expect: str | int | None = None) -> Call[Move]:
    """Serve a policy, named by id or version; refused where something else serves than what is expected."""
    body = {"reason": reason, **({} if expect is None else {"expect": str(expect)})}
    return once("POST", f"/v1/admin/checkpoints/{part(policy)}/promote", shapes.read_move, body)


def rollback(to: str | int | None, reason: str) -> Call[Move]:
    """Serve an earlier policy again, and freeze learning."""
    body = {"reason": reason, **({} if to is None else {"to": str(to)})}
    return once("POST", "/v1/admin/rollback", shapes.read_move, body)


def overview() -> Call[Mapping[str, Any]]:
    """Read what is served, graded and learned."""
    return Call("GET", "/v1/admin/overview", as_it_is)


def version() -> Call[Mapping[str, Any]]:
    """Read what the server is, and which policy it serves."""
    return Call("GET", "/version", as_it_is)


def freeze(reason: str) -> Call[Mapping[str, Any]]:
    """Begin no update until thawed."""
    return once("POST", "/v1/admin/learning/freeze", as_it_is, {"reason": reason})


def thaw(reason: str) -> Call[Mapping[str, Any]]:
    """Learn again."""
    return once("POST", "/v1/admin/learning/thaw", as_it_is, {"reason": reason})


def start_job(config: Mapping[str, Any] | None) -> Call[Job]:
    """Ask for an update; `config` holds settings that differ from the service's."""
    return once("POST", "/v1/admin/jobs", shapes.read_job, {"config": dict(config or {})})


def job(job_id: str) -> Call[Job]:
    """Read a job."""
    return Call("GET", f"/v1/admin/jobs/{part(job_id)}", shapes.read_job)


def cancel_job(job_id: str) -> Call[Job]:
    """Cancel a job."""
    return once("POST", f"/v1/admin/jobs/{part(job_id)}/cancel", shapes.read_job)


def jobs(**filters: Any) -> Call[list[Job]]:
    """List jobs, the newest first."""
    return Call("GET", "/v1/admin/jobs", listed(shapes.read_job), params=given_of(**filters))


def events(job_id: str, after: int) -> Call[list[Event]]:
    """Read what was added to a job's diary behind an event's id."""
    return Call("GET", f"/v1/admin/jobs/{part(job_id)}/events", listed(shapes.read_event), params={"after": after})


def export(**filters: Any) -> Call[Mapping[str, Any]]:
    """Export answers, the oldest first, one JSON object a line; filters as of `interactions`, and `rollouts`."""
    return Call("GET", "/v1/admin/export", as_it_is, params=given_of(**filters))


def metrics() -> Call[str]:
    """Read every metric, in Prometheus' text form."""
    return Call("GET", "/metrics", str)


def once(method: str, path: str, read: Callable[[Any], T], body: Mapping[str, Any] | None = None) -> Call[T]:
    """Make a call that may be repeated and is done once."""
    return Call(method, path, read, body, headers={"Idempotency-Key": uuid.uuid4().hex})


def paged(path: str, read: Callable[[Any], T], params: Mapping[str, Any]) -> Call[Page[T]]:
    """Make a call for a page of a listing."""
    asked = given_of(**params)

    def page(body: Mapping[str, Any]) -> Page[T]:
        more = body.get("next_after")
        rest = None if more is None else paged(path, read, {**asked, "after": more})
        return Page([read(one) for one in body["data"]], rest)

    return Call("GET", path, page, params=asked)


def as_it_is(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Read a body that has no shape of its own here."""
    return body


def listed(read: Callable[[Any], T]) -> Callable[[Mapping[str, Any]], list[T]]:
    """Read a listing."""
    return lambda body: [read(one) for one in body["data"]]


def given_of(**params: Any) -> dict[str, Any]:
    """Write query parameters: those that were given, times with their zone."""
    return {
        name: value.astimezone().isoformat() if isinstance(value, datetime) else value
        for name, value in params.items()
        if value is not None
    }


def part(name: str | int) -> str:
    """Write a name as one part of a path."""
    return quote(str(name), safe="")
