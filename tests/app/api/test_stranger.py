"""Every route of the application, walked with keys of another project and with ids that exist.

Nothing of the others' may be read or changed, and nothing may tell that it exists: what an id that exists gets is what
one that does not exist gets, to the letter. A route added tomorrow is walked by itself; one whose path has a new
parameter, or which takes a body of its own, must be named here, or the walk says so.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from starlette.routing import BaseRoute

from app.api.door.auth import OPEN
from app.store.keys import create_key
from app.store.projects import create_project
from tests.app.api.live import Live

SECRET = "violet-envelope"
USER = "ada-lovelace"
FEWEST = 40  # routes; a walk that finds none proves nothing
SPEC = {"type": "string_check", "operation": "eq", "reference": "2"}
MESSAGES = {"model": "lepo", "messages": [{"role": "user", "content": "a"}], "max_tokens": 2, "seed": 1}
BODIES: dict[str, Any] = {  # by the end of a path; else {}
    "/chat/completions": MESSAGES,
    "/completions": {"model": "lepo", "prompt": "a", "max_tokens": 2, "seed": 1},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [5]},
    "/responses": {"model": "lepo", "input": "a", "max_output_tokens": 2, "seed": 1},
    "/grades": {"value": 1, "choice": 0},
    "/grading_tokens": {"choice": 0},
    "/validate": {"grader": SPEC},
    "/run": {"grader": SPEC, "answer": "2"},
    "/admin/keys": {"name": "k", "scopes": ["infer"], "project": "default"},
    "/trust": {"trust": "quarantined"},
    "/trial": {"stage": "canary"},
    "/admin/projects": {"id": "another"},
    "/keys/{key_id}": {"max_choices": 1},
    "/projects/{project_id}": {"stored_bytes": 1},
}
KEPT = (  # what is the others', and must be as it was
    "SELECT * FROM interactions WHERE project_id <> 'strangers'",
    "SELECT * FROM rollouts WHERE interaction_id IN (SELECT id FROM interactions WHERE project_id <> 'strangers')",
    "SELECT * FROM grades WHERE interaction_id IN (SELECT id FROM interactions WHERE project_id <> 'strangers')",
    "SELECT * FROM grading_tokens",
    "SELECT * FROM tombstones",
    "SELECT * FROM projects",
    "SELECT * FROM api_keys WHERE project_id IS DISTINCT FROM 'strangers'",
    "SELECT * FROM sessions WHERE name = 'theirs'",
    "SELECT * FROM session_grades",
    *(f"SELECT * FROM {name}" for name in ("jobs", "checkpoints", "transitions", "learning", "claims")),
)

HELD_OUT = '{"prompt": "2 + 3", "grader": {"type": "string_check", "operation": "eq", "reference": "5"}}'


@dataclass
class Others:
    """What belongs to another project, and what looks like it and does not exist."""

    there: dict[str, list[str]] = field(default_factory=dict)  # path parameter -> ids that exist
    absent: dict[str, list[str]] = field(default_factory=dict)  # likewise -> ids that do not, in the same order
    words: list[str] = field(default_factory=list)  # what none of the strangers may ever read


@pytest.fixture(scope="module")
def strangers(live: Live) -> dict[str, dict[str, str]]:
    """Headers with keys of another project: one that asks and grades, and one that administers it."""
    found = {}
    with live.store.session() as session:
        create_project(session, "strangers")
        for name, scopes in (("plain", ["infer", "grade"]), ("admin", ["infer", "admin"])):
            _, key = create_key(session, name, scopes, project="strangers")
            found[name] = {"Authorization": f"Bearer {key}"}
    return found


@pytest.fixture(scope="module")
def others(live: Live) -> Others:
    """Answers, a grade, a token, keys, a job and policies of the default project."""
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": SECRET}], "user": USER, "session_id": "theirs"}
    one, two = live.answer(**asked), live.answer(n=2, **asked)
    first = one["choices"][0]["interaction_id"]
    grade = live.http().post(f"/v1/interactions/{first}/grades", json={"value": 1, "comment": SECRET}).json()
    token = live.http().post(f"/v1/interactions/{first}/grading_tokens", json={}).json()
    key, admin = (live.keys[name].split("-")[1] for name in ("both", "admin"))
    posted = live.http("admin").post("/v1/admin/jobs", json={})
    assert posted.status_code == 201, posted.text
    job = posted.json()["id"]
    checkpoint = live.http("admin").get("/v1/admin/checkpoints").json()["data"][0]
    held_out = live.http("admin").post("/v1/admin/held-out", content=HELD_OUT).json()
    nobody, session = "0" * 32, one["choices"][0]["session_id"]
    made = Others(
        there={
            "interaction_id": [first, one["id"], two["id"]],
            "key_id": [key, admin],
            "job_id": [job],
            "checkpoint_id": [checkpoint["id"], str(checkpoint["version"])],
            "project_id": ["default"],
            "user": [USER],
            "model": ["lepo"],
            "name": ["start.js"],
            "session_id": [session],
            "version": [str(held_out["version"])],
        },
        absent={
            "interaction_id": [f"int_{nobody}", f"chatcmpl-{nobody}", f"chatcmpl-{nobody}"],
            "key_id": ["absent0000", "absent0000"],
            "job_id": [f"job_{nobody}"],
            "checkpoint_id": [f"ckpt_{nobody}", "999"],
            "project_id": ["nowhere"],
            "user": ["absent-user"],
            "model": ["lepo"],
            "name": ["start.js"],
            "session_id": [f"sess_{nobody}"],
            "version": ["999"],
        },
    )
    answers = [choice["interaction_id"] for choice in two["choices"]]
    made.words = [first, *answers, one["id"], two["id"], grade["id"], token["id"], token["token"], key, admin, job]
    made.words += [SECRET, USER, checkpoint["id"], session]
    return made


def walk(routes: list[BaseRoute]) -> Iterator[tuple[str, str]]:
    """Every method and path template of an application."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from walk(inner.routes)
        else:
            path: str = getattr(route, "path")  # noqa: B009 - routes of several kinds
            for method in sorted(getattr(route, "methods", None) or {"GET"}):
                yield method, path


def every_route(live: Live) -> list[tuple[str, str]]:
    """Those that take something away come last. Pages are walked as they are read: `console.test_strangers`."""
    walked = [one for one in walk(live.httpd._app.routes) if not one[1].startswith("/console")]
    found = [one for one in walked if one[0] not in {"HEAD", "OPTIONS"}]
    assert len(found) >= FEWEST
    return sorted(found, key=lambda one: (one[0] == "DELETE", "revoke" in one[1], one))


def asked(path: str, ids: dict[str, list[str]]) -> Iterator[tuple[str, list[str]]]:
    """Fill a path with each id that its parameter can be, and say which."""
    names = re.findall(r"\{(\w+)(?::\w+)?\}", path)
    assert set(names) <= set(ids), f"{path}: say above what exists of {names}"
    assert len(names) < 2, f"{path}: the walk fills one parameter"
    for value in ids[names[0]] if names else [""]:
        yield re.sub(r"\{.*?\}", value, path), [value] if value else []


def body_of(method: str, path: str) -> dict[str, Any]:
    """A body that the route takes."""
    if method not in {"POST", "PATCH", "PUT"}:
        return {}
    longest = max((end for end in BODIES if path.endswith(end)), key=len, default=None)
    return {"json": BODIES[longest] if longest else {}}


def knock(live: Live, method: str, path: str, headers: dict[str, str], query: dict[str, str]) -> httpx.Response:
    sent = {} if method == "DELETE" and "/grades" not in path else query
    template = re.sub(r"/v1/admin/(keys|projects)/[^/]+$", r"/\1/{\1_id}", path).replace("s_id", "_id")
    return live.http(None).request(method, path, headers=headers, params=sent, **body_of(method, template))


def plain(response: httpx.Response, ids: list[str], query: dict[str, str]) -> tuple[int, str]:
    """What a response says, but for the ids that were sent, its times and what differs between any two requests."""
    said = response.text
    for sent in [*ids, *query.values()]:
        said = said.replace(sent, "<sent>")
    said = re.sub(
        r'"(\w+_at|id|completion_id|interaction_id|session_id|key|name|token|created)": ?("[^"]*"|\d+)', r'"\1":0', said
    )
    return response.status_code, said


@pytest.mark.parametrize("who", ["plain", "admin"])
def test_nothing_of_anothers_is_read_changed_or_hinted_at(
    live: Live, strangers: dict[str, dict[str, str]], others: Others, who: str
) -> None:
    before = kept(live)
    there = {"key": others.there["key_id"][0], "user": USER, "completion_id": others.there["interaction_id"][1]}
    absent = {"key": "absent0000", "user": "absent-user", "completion_id": others.absent["interaction_id"][1]}
    for method, path in every_route(live):
        pairs = zip(asked(path, others.there), asked(path, others.absent), strict=True)
        for (real, ids), (made_up, nobodies) in pairs:
            for more in ({}, {"choice": "0"}, {"include": "rollout"}):
                found = knock(live, method, real, strangers[who], there | more)
                missed = knock(live, method, made_up, strangers[who], absent | more)
                assert found.status_code < 500, (method, real)
                if real not in OPEN:  # which say the same to all
                    assert plain(found, ids, there) == plain(missed, nobodies, absent), (method, real, more)
                for word in set(others.words) - set(ids):
                    assert word not in found.text, (method, real, word)
    assert kept(live) == before


def test_what_was_walked_exists_and_would_answer_its_owner(live: Live, others: Others) -> None:
    """Else the walk above would prove nothing: with an admin key of the service the same requests find something."""
    admin = {"Authorization": f"Bearer {live.keys['admin']}"}
    for method, path in every_route(live):
        for real, ids in asked(path, others.there):
            if ids and ids[0] == live.keys["admin"].split("-")[1] and method == "DELETE":
                continue  # it would close the key that asks
            response = knock(live, method, real, admin, {"choice": "0"})
            gone = method == "DELETE" and response.status_code == 404  # an answer of two ids is removed by the first
            assert response.status_code not in {401, 403, 405, 422} or path == "/metrics", (method, real, response.text)
            assert gone or response.status_code != 404 or "/trial" in path, (method, real, response.text)


def kept(live: Live) -> list[list[str]]:
    with live.store.session() as session:
        return [sorted(session.scalars(text(f"SELECT row::text FROM ({query}) AS row")).all()) for query in KEPT]
