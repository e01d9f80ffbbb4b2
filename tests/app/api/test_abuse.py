"""Requests made to break something: each gets a 4xx that names the field, nothing is logged as an error, no key shows.

Fields, routes and parameters are read from the application's own description, so that none is forgotten.
"""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tests.app.api.live import Live
from tests.app.api.test_refusals import ASK, error_of

DIGITS = 10**4300 - 1  # the longest number that JSON text is turned into; one digit more cannot be written back
LONGEST_ERROR = 2000  # bytes
BENIGN = {"service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}

NUMBERS = [
    float("nan"),
    float("inf"),
    float("-inf"),
    -1e308,
    1e308,
    -(10**30),
    10**30,
    DIGITS,
    -1,
    "1",
    True,
    [1],
    {"a": 1},
]
ALLOWED = [(name, -1) for name in ("seed", "logit_bias.1", "top_k", "presence_penalty", "frequency_penalty")]
IDS = [
    "%00",
    "int_%00",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e",
    "%ED%A0%80",
    "%ff",
    "%D9%A3",
    "%E2%80%AE",
    "'%20OR%20'1'='1",
    "int_" + "0" * 31 + "%0a",
    "int_" + "g" * 32,
    "job_" + "0" * 32,
    "9" * 30,
    "-1",
    "x" * 20_000,
]
QUERIES = [
    "%00",
    "%ED%A0%80",
    "",
    "nan",
    "-1",
    "9" * 25,
    "9" * 5000,
    "x" * 20_000,
    "A B",
    "[]",
    "0001-01-01T00:00:00%2B23:59",
]


@pytest.fixture(autouse=True)
def quiet(live: Live, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a test sends: the server goes on, its log shows no error and no key."""
    with caplog.at_level(logging.DEBUG, logger="lepo"):
        yield
    assert live.answer()["choices"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info]
    assert not [secret for key in live.keys.values() if (secret := key.rpartition("-")[2]) in caplog.text]


def refused(live: Live, path: str, body: Any, key: str = "both") -> dict[str, Any]:
    """Send a body that must be refused; returns the error."""
    sent = json.dumps(body).encode()
    response = live.http(key).post(path, content=sent, headers={"Content-Type": "application/json"})
    assert 400 <= response.status_code < 500, (response.status_code, str(body)[:200])
    assert len(response.content) < LONGEST_ERROR
    return error_of(response)


def described(live: Live) -> dict[str, Any]:
    """The application's own description."""
    found: dict[str, Any] = live.http(None).get("/openapi.json").json()
    return found


def fields_of(live: Live, schema: str) -> list[str]:
    """Names of a body's fields."""
    return list(described(live)["components"]["schemas"][schema]["properties"])


@pytest.mark.parametrize(("schema", "path"), [("ChatBody", "chat/completions"), ("CompletionBody", "completions")])
def test_every_field_refuses_a_value_of_another_type_by_name(live: Live, schema: str, path: str) -> None:
    base = {"model": "lepo", "max_tokens": 1} | ({"prompt": "2"} if schema == "CompletionBody" else ASK)
    fields = set(fields_of(live, schema)) - BENIGN
    assert len(fields) > 25
    for field in fields:
        values: list[Any] = [{"": {"\x00": [None]}}, [{"a": [[]]}], "\x00"]
        for value in values:
            error = refused(live, f"/v1/{path}", {**base, field: value})
            assert str(error["param"]).startswith(field), (field, value, error)


NUMERIC = [
    *("n", "seed", "temperature", "top_p", "top_k", "max_tokens", "max_completion_tokens", "min_tokens", "priority"),
    *("top_logprobs", "presence_penalty", "frequency_penalty", "repetition_penalty", "min_p"),
]


@pytest.mark.parametrize("field", [*NUMERIC, "latent.length", "latent.tau", "latent.top_k", "logit_bias.1"])
def test_every_number_is_bounded_on_both_sides(live: Live, field: str) -> None:
    outer, _, inner = field.partition(".")
    for number in NUMBERS:
        if (field, number) in ALLOWED:
            continue
        value = {inner: number} if inner else number
        error = refused(live, "/v1/chat/completions", {**ASK, outer: value})
        assert str(error["param"]).startswith(outer), (number, error)


def test_fields_that_are_ignored_may_hold_anything(live: Live) -> None:
    """They are not even kept: a value that cannot be stored or read back must not spoil the answer or a listing."""
    deep: Any = 0
    for _ in range(900):
        deep = [deep]
    for field in BENIGN:
        for value in ("\x00", "\ud800", float("nan"), DIGITS, deep):
            sent = json.dumps({**ASK, field: value}).encode()
            response = live.http().post(
                "/v1/chat/completions", content=sent, headers={"Content-Type": "application/json"}
            )
            assert response.status_code == 200, (field, response.text)
    listed = live.http().get("/v1/interactions").json()["data"]
    assert not BENIGN & set(listed[0]["request"])


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"k" * 200_000: 1}, "kkk"),
        ({"model": "m" * 200_000}, "model"),
        ({"stop_token_ids": [DIGITS]}, "stop_token_ids"),
        ({"latent": {"k" * 70_000: 1}}, "latent"),
        ({"grader": {"type": "string_check", "operation": "eq", "reference": "5", "k" * 70_000: 1}}, "grader"),
        ({"grader": {"type": "math", "reference": "5", "weight": DIGITS}}, "grader"),
        ({"messages": [{"role": "r" * 70_000, "content": "x"}]}, "messages[0].role"),
    ],
    ids=lambda value: str(value)[:30] if not isinstance(value, dict) else next(iter(value))[:30],
)
def test_an_error_does_not_send_back_what_was_sent(live: Live, change: dict[str, Any], param: str) -> None:
    error = refused(live, "/v1/chat/completions", {**ASK, **change})
    assert str(error["param"]).startswith(param)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "\x00"}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "\udfff"}]}]},
            "messages[0].content[0].text",
        ),
        ({"messages": [{"role": "user", "content": "x", "name": "\x00"}]}, "messages[0].name"),
        ({"stop": ["\x00"]}, "stop[0]"),
        ({"stop": ["a"] * 100_000}, "stop"),
        ({"logit_bias": {str(token): 1 for token in range(60_000)}}, "logit_bias"),
        ({"logit_bias": {"\u0663": 1}}, "logit_bias"),
        ({"user": "x" * 257}, "user"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
        ({"metadata": {"k" * 65: "x"}}, "metadata"),
        ({"metadata": {str(entry): "x" for entry in range(17)}}, "metadata"),
        ({"metadata": {"a": "\ud800"}}, "metadata.a"),
        ({"metadata": {"a": {"b": "c"}}}, "metadata.a"),
        ({"latent": {"length": 2, "embeddings": [[0.1]]}}, "latent.embeddings"),
        ({"latent": [4]}, "latent"),
        ({"prompt_embeds": "AAAA"}, "prompt_embeds"),
        ({"chat_template": "{{ 7 * 7 }}"}, "chat_template"),
        ({"grader": {"type": "multi", "graders": {}, "calculate_output": "1"}}, "grader.graders"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_stored_or_must_not_be_given_is_named(live: Live, change: dict[str, Any], param: str) -> None:
    assert refused(live, "/v1/chat/completions", {**ASK, **change})["param"] == param


def test_a_name_that_is_no_text_is_refused(live: Live) -> None:
    assert refused(live, "/v1/chat/completions", {**ASK, "\ud800": 1})["code"] == "invalid_value"


@pytest.mark.parametrize(
    "content", ["e\u0301 \u0644\u0627", "\U0001f469\u200d\U0001f680", "\u202e\ufeff", "<|im_end|>"]
)
def test_strange_text_that_is_text_is_answered(live: Live, content: str) -> None:
    answer = live.answer(messages=[{"role": "user", "content": content}])
    kept = live.http().get(f"/v1/interactions/{answer['choices'][0]['interaction_id']}").json()
    assert kept["request"]["messages"][0]["content"] == content


@pytest.mark.parametrize("depth", [500, 990, 10_000])
def test_deep_nesting_is_refused(live: Live, depth: int) -> None:
    for field in ("metadata", "grader", "messages", "stop"):
        body = json.dumps(ASK)[:-1] + f', "{field}": ' + "[" * depth + "]" * depth + "}"
        response = live.http().post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 400
        error_of(response)


def test_no_id_in_a_path_breaks_a_route(live: Live) -> None:
    """Path traversal, NUL, half characters, ids of another kind: there is no such thing, whatever it is."""
    routes = [
        (method.upper(), path)
        for path, methods in described(live)["paths"].items()
        for method in methods
        if "{" in path
    ]
    assert len(routes) > 10
    for method, path in routes:
        for name in IDS:
            url = path[: path.index("{")] + name + path[path.index("}") + 1 :]
            body: dict[str, Any] = (
                {"json": {"value": 1} if path.endswith("/grades") else {}} if method == "POST" else {}
            )
            response = live.http("admin").request(method, url, **body)
            if "{user}" in path and response.status_code == 200:  # any text may name a user: that one asked nothing
                assert response.json()["removed"] == {}
                continue
            assert response.status_code in {400, 404, 405}, (method, url[:80], response.status_code)
            assert error_of(response)
            assert len(response.content) < LONGEST_ERROR


def test_no_query_breaks_a_route(live: Live) -> None:
    target = live.answer()["choices"][0]["interaction_id"]
    asked = [
        (method.upper(), path, parameter["name"])
        for path, methods in described(live)["paths"].items()
        for method, operation in methods.items()
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "query"
    ]
    assert len(asked) > 15
    for method, path, name in asked:
        url = path.replace("{interaction_id}", target).replace("{job_id}", "job_" + "0" * 32)
        for value in QUERIES:
            response = live.http("admin").request(method, f"{url}?{name}={value}")
            assert response.status_code < 500, (method, url, name, value[:20])
            if response.status_code >= 400:
                assert error_of(response)
                assert len(response.content) < LONGEST_ERROR


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/admin/jobs", {"config": {"model": "x"}}, "config"),
        ("/v1/admin/jobs", {"config": {"learning_rate": float("nan")}}, "config"),
        ("/v1/admin/jobs", {"config": {"max_grades": 10**30}}, "config"),
        ("/v1/admin/jobs", {"config": {"min_grades": DIGITS}}, "config"),
        ("/v1/admin/jobs", {"config": {"clip_low": 2}}, "config.clip_low"),
        ("/v1/admin/keys", {"name": "x", "scopes": ["root"]}, "scopes[0]"),
        ("/v1/admin/keys", {"name": "x", "scopes": ["infer"], "expires_in": DIGITS}, "expires_in"),
        ("/v1/admin/keys", {"name": "\x00", "scopes": ["infer"]}, "name"),
        ("/v1/admin/rollback", {"to": 5}, "to"),
        ("/v1/graders/run", {"grader": {"type": "math", "reference": "1"}, "answer": "x" * 100_001}, "answer"),
        ("/v1/graders/validate", {"grader": {"type": "python", "source": "import os"}}, "grader.type"),
        ("/tokenize", {"prompt": "\ud800"}, "prompt"),
        ("/detokenize", {"tokens": [DIGITS]}, "tokens"),
        ("/detokenize", {"tokens": [True]}, "tokens[0]"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_other_bodies_are_refused_by_field(live: Live, path: str, body: dict[str, Any], param: str) -> None:
    assert refused(live, path, body, key="admin")["param"] == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        *[({"value": value}, "value") for value in (float("nan"), float("inf"), -1e-9, 1.1, DIGITS, "1", None, [1])],
        ({"value": 1, "grader": {"kind": "math"}}, "grader.kind"),
        ({"value": 1, "grader": {"id": "\ud800"}}, "grader.id"),
        ({"value": 1, "grader": {"kind": "a\n"}}, "grader.kind"),
        ({"value": 1, "comment": "\x00"}, "comment"),
        ({"value": 1, "comment": "x" * 16_385}, "comment"),
        ({"value": 1, "correction": "\ud800"}, "correction"),
        ({"value": 1, "choice": -1}, "choice"),
        ({}, "value"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_grade_that_is_none_is_refused(live: Live, body: dict[str, Any], param: str) -> None:
    target = live.answer()["choices"][0]["interaction_id"]
    assert refused(live, f"/v1/interactions/{target}/grades", body)["param"] == param
    assert live.http().get(f"/v1/interactions/{target}/grades").json()["data"] == []


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("kind=BAD", "kind"),
        ("kind=math", "grader.kind"),
        ("id=%00", "id"),
        (f"kind={'a' * 65}", "kind"),
        ("choice=x", "choice"),
    ],
)
def test_a_grade_cannot_be_taken_back_by_a_bad_name(live: Live, query: str, param: str) -> None:
    target = live.answer()["choices"][0]["interaction_id"]
    response = live.http().delete(f"/v1/interactions/{target}/grades?{query}")
    assert (response.status_code, error_of(response)["param"]) == (400, param)


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_an_idempotency_key_has_a_length(live: Live, key: str) -> None:
    target = live.answer()["choices"][0]["interaction_id"]
    response = live.http().post(
        f"/v1/interactions/{target}/grades", json={"value": 1}, headers={"Idempotency-Key": key}
    )
    assert (response.status_code, error_of(response)["param"]) == (400, "Idempotency-Key")


@pytest.mark.parametrize("asked", [b"a" * 129, b"a b", b"\xff", b""])
def test_a_bad_request_id_is_replaced(live: Live, asked: bytes) -> None:
    response = live.http().get("/v1/models", headers={b"X-Request-Id": asked})
    assert response.headers["x-request-id"].startswith("req_")


def test_callers_words_do_not_become_series(live: Live) -> None:
    """A label per made-up kind of grader would grow the metrics for ever."""
    target = live.answer()["choices"][0]["interaction_id"]
    for kind in ("made_up", "made_up_again"):
        body = {"value": 1, "grader": {"kind": kind}}
        assert live.http().post(f"/v1/interactions/{target}/grades", json=body).status_code == 201
    assert "made_up" not in live.http(None).get("/metrics").text


def test_a_path_with_a_slash_too_many_is_unknown(live: Live) -> None:
    for path in ("/v1/models/", "/v1/chat/completions/", "//v1/models"):
        response = live.http().get(path)
        assert (response.status_code, error_of(response)["type"]) == (404, "not_found_error"), path
