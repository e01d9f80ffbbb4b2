"""The document of the API: committed, complete, and true of what was really sent."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from app.commands.openapi import text
from tests.app.api.contract import DOCUMENT, items, operations, require_described, resolved, sent, validator
from tests.app.api.live import Live

COMMITTED = Path(__file__).parents[3] / "docs" / "openapi.json"
FEWEST = 55  # operations; a walk that finds none proves nothing
OPEN = {"/health", "/ready", "/version", "/metrics"}
ASKED: dict[str, Any] = {"model": "lepo", "messages": [{"role": "user", "content": "What is 2 + 3"}], "max_tokens": 4}
SPEC = {"type": "string_check", "operation": "eq", "reference": "2"}


def test_the_committed_document_is_what_the_server_says() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == text(), "run: lepo openapi > docs/openapi.json"


def test_the_server_gives_the_same_document(live: Live) -> None:
    assert live.http(None).get("/openapi.json").json() == DOCUMENT


def test_every_operation_says_what_it_answers_and_to_whom() -> None:
    found = operations()
    assert len(found) >= FEWEST
    assert len({operation["operationId"] for _, _, operation in found}) == len(found), "names are unique"
    for _, path, operation in found:
        good = {status: answer for status, answer in operation["responses"].items() if int(status) < 400}
        assert len(good) == 1, path
        for answer in good.values():
            assert "X-Request-Id" in answer["headers"], path
            for kind, content in answer["content"].items():
                described = content.get("schema") or content.get("itemSchema")
                assert described not in (None, {}), (path, kind)
        assert operation["description"], path
        if path in OPEN:
            assert operation["security"] == [], path
        else:
            assert operation["security"][0]["key"], path
            assert {"401", "403", "429", "500", "503"} <= set(operation["responses"]), path


def test_every_error_has_one_shape_and_says_when_to_come_back() -> None:
    for method, path, operation in operations():
        for status, response in operation["responses"].items():
            if int(status) < 400:
                continue
            described = resolved(response)
            assert described["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Error"}, path
            if status in {"429", "503"} and path not in OPEN:
                assert "Retry-After" in described["headers"], (method, path, status)


def test_every_listing_is_read_in_the_same_way() -> None:
    paged = 0
    for method, path, operation in operations():
        answer = next(one for status, one in operation["responses"].items() if int(status) < 400)
        schema = resolved(answer["content"].get("application/json", {}).get("schema", {}))
        fields = set(schema.get("properties", {}))
        names = {one["name"] for one in operation.get("parameters", ())}
        if method == "get" and "data" in fields and path != "/v1/models":
            paged += 1
            assert {"data", "has_more", "next_after"} <= fields, path
            assert {"limit", "after"} <= names, path
        elif path != "/v1/admin/export":  # which is read in one go, and goes on behind its last line
            assert not {"limit", "after", "next_after", "has_more"} & (fields | names), path
    assert paged >= 12


def test_what_is_repeatable_says_so() -> None:
    once = {operation["operationId"] for _, _, operation in operations() if "422" in operation["responses"]}
    assert {"post_grade", "retract_grade", "post_job", "promote", "rollback", "freeze"} <= once
    for _, path, operation in operations():
        named = "Idempotency-Key" in {one["name"].title() for one in operation.get("parameters", ())}
        assert named == (operation["operationId"] in once), path


def test_schemas_are_schemas_and_examples_fit_them() -> None:
    shown = 0
    for name, schema in DOCUMENT["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        for example in schema.get("examples", ()):
            shown += 1
            assert not list(validator(schema).iter_errors(example)), (name, example)
    bodies = [operation["requestBody"] for _, _, operation in operations() if "requestBody" in operation]
    assert shown >= len({str(body) for body in bodies}) - 1


def test_links_lead_somewhere() -> None:
    takes = {op["operationId"]: {one["name"] for one in op.get("parameters", ())} for _, _, op in operations()}
    linked = 0
    for _, _, operation in operations():
        for answer in operation["responses"].values():
            for link in answer.get("links", {}).values():
                linked += 1
                assert set(link["parameters"]) <= takes[link["operationId"]], link
    assert linked > 20


@pytest.fixture
def held(live: Live) -> Iterator[dict[str, httpx.Client]]:
    """Clients whose every answer is held against the document."""

    def hold(response: httpx.Response) -> None:
        response.read()
        require_described(response)

    for client in live.clients.values():
        client.event_hooks["response"] = [hold]
    yield {name: client for name, client in live.clients.items() if name is not None}
    for client in live.clients.values():
        client.event_hooks["response"] = []


def post(client: httpx.Client, path: str, status: int = 200, **body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    return response.json() if response.headers["content-type"] == "application/json" else response.text


def test_answers_are_sent_as_described(held: dict[str, httpx.Client]) -> None:
    both = held["both"]
    kinds: tuple[dict[str, Any], ...] = (
        {},
        {"n": 2, "logprobs": True, "top_logprobs": 2, "return_token_ids": True},
        {"session_id": "of-the-document", "max_completion_tokens": 5},
        {"store": False, "latent": {"length": 0}},
    )
    for more in kinds:
        post(both, "/v1/chat/completions", **ASKED, **more)
        streamed: dict[str, Any] = {
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        assert "[DONE]" in post(both, "/v1/chat/completions", **ASKED, **more, **streamed)
    plain: dict[str, Any] = {"model": "lepo", "prompt": ["1+1", "2"], "max_tokens": 4}
    for more in (*kinds[:1], {"echo": True, "logprobs": 2, "return_token_ids": True}):
        post(both, "/v1/completions", **plain, **more)
        post(both, "/v1/completions", **plain, **more, stream=True)
    post(both, "/v1/completions", **plain | {"max_tokens": 0}, echo=True, logprobs=1)
    asked: dict[str, Any] = {"model": "lepo", "input": "2 + 3", "max_output_tokens": 8}
    post(both, "/v1/responses", **asked)
    assert "response.output_text.delta" in post(both, "/v1/responses", **asked, stream=True)
    post(both, "/v1/responses", 400, **asked, background=True)


def test_the_rest_is_sent_as_described(live: Live, held: dict[str, httpx.Client]) -> None:
    both, admin = held["both"], held["admin"]
    for path in ("/health", "/ready", "/version", "/metrics", "/v1/models", "/v1/models/lepo", "/tokenizer_info"):
        assert both.get(path).status_code == 200
    tokens = post(both, "/tokenize", prompt="1+1", return_token_strs=True)["tokens"]
    post(both, "/detokenize", tokens=tokens)
    asked = post(both, "/v1/chat/completions", **ASKED, session_id="graded", grader=SPEC)["choices"][0]
    answer = f"/v1/interactions/{asked['interaction_id']}"
    post(both, f"{answer}/grades", 201, value=0.5, comment="so so", correction="5")
    assert both.get(f"{answer}/grades").json()["data"]
    assert both.delete(f"{answer}/grades").status_code == 200
    lent = post(both, f"{answer}/grading_tokens", 201, grades=2)
    assert lent["token"]
    assert both.delete(f"{answer}/grading_tokens").status_code == 200
    post(both, "/v1/sessions/graded/grades", 201, value=1, credit="discounted", discount=0.5)
    assert both.get("/v1/sessions/graded").json()["data"][0]["answers"]
    assert both.get("/v1/sessions", params={"limit": 1}).json()["data"]
    assert both.delete("/v1/sessions/graded/grades").status_code == 200
    assert both.get("/v1/interactions").json()["data"]
    assert admin.get(answer, params={"include": "rollout"}).json()["rollout"]
    assert both.get("/v1/interactions/int_none").status_code == 404
    post(both, "/v1/graders/validate", grader=SPEC)
    post(both, "/v1/graders/run", grader=SPEC, answer="2")
    job = post(admin, "/v1/admin/jobs", 201)["id"]
    post(admin, f"/v1/admin/jobs/{job}/cancel")
    assert admin.get(f"/v1/admin/jobs/{job}/events").json()["data"]
    key = post(admin, "/v1/admin/keys", 201, name="k", scopes=["infer"], max_choices=3)["id"]
    assert admin.patch(f"/v1/admin/keys/{key}", json={"max_choices": 2.0}).json()["limits"]["max_choices"] == 2
    post(admin, f"/v1/admin/keys/{key}/trust", trust="quarantined")
    assert admin.delete(f"/v1/admin/keys/{key}").status_code == 200
    post(admin, "/v1/admin/projects", 201, id="described")
    post(admin, "/v1/admin/projects", 409, id="described")
    assert admin.patch("/v1/admin/projects/described", json={"grading_seconds": 5}).status_code == 200
    for switch in ("freeze", "thaw", "pin", "unpin"):
        post(admin, f"/v1/admin/learning/{switch}")
    post(admin, "/v1/admin/checkpoints/0/promote")
    post(admin, "/v1/admin/rollback", 409)
    for path in ("checkpoints/0", "checkpoints/0/lineage", "overview", "learning", "projects/described"):
        assert admin.get(f"/v1/admin/{path}").status_code == 200
    for name in ("checkpoints", "transitions", "jobs", "keys", "projects", "audit"):
        assert admin.get(f"/v1/admin/{name}", params={"limit": 1}).json()["data"], name
    for name in ("swaps", "trials", "keys/agreement"):
        assert admin.get(f"/v1/admin/{name}").status_code == 200
    assert admin.get("/v1/admin/export", params={"rollouts": True}).text
    assert both.delete("/v1/sessions/graded").json()["finished"]
    assert admin.delete(answer).status_code in {200, 404}
    assert admin.delete("/v1/users/nobody/data").status_code == 200


def test_a_field_that_is_not_described_is_seen() -> None:
    """Else the tests above would prove little."""
    assert "Model" in sent()
    content = {"schema": {"$ref": "#/components/schemas/Version"}}
    body = {"version": "1", "policy_version": 0, "more": 1}
    [(schema, item)] = items(content, "application/json", json.dumps(body))
    assert "more" in next(iter(validator(schema).iter_errors(item))).message
