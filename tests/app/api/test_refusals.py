"""Every refusal is a 4xx in OpenAI's shape that names the field, and nothing is lost by it."""

import json
from typing import Any

import httpx
import pytest

from tests.app.api.live import CONTEXT, Live

ASK: dict[str, Any] = {"model": "lepo", "messages": [{"role": "user", "content": "2"}], "max_tokens": 2}
GRADER: dict[str, Any] = {"type": "string_check", "operation": "eq", "reference": "5"}

BAD_CHAT: list[tuple[dict[str, Any], int, str, str]] = [
    ({"model": "gpt-4"}, 404, "model", "model_not_found"),
    ({"n": 10**6}, 400, "n", "invalid_value"),
    ({"n": 0}, 400, "n", "invalid_value"),
    ({"n": True}, 400, "n", "invalid_value"),
    ({"n": "3"}, 400, "n", "invalid_value"),
    ({"latent": {"length": -1}}, 400, "latent.length", "invalid_value"),
    ({"latent": {"length": 9, "steps": 2}}, 400, "latent.steps", "unknown_parameter"),
    ({"latent": {"tau": 0}}, 400, "latent.tau", "invalid_value"),
    ({"latent": {"draws": 65}}, 400, "latent.draws", "invalid_value"),
    ({"latent": {"top_k": 10**6}}, 400, "latent.top_k", "invalid_value"),
    ({"latent": {"length": 8}, "max_tokens": None, "max_completion_tokens": 8}, 400, "latent.length", "invalid_value"),
    ({"latnet": {"length": 4}}, 400, "latnet", "unknown_parameter"),
    ({"messages": []}, 400, "messages", "invalid_value"),
    ({"messages": None}, 400, "messages", "invalid_value"),
    ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": "user", "content": 5}]}, 400, "messages[0].content", "invalid_value"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
        *(400, "messages[0].content[0].type", "invalid_value"),
    ),
    ({"messages": [{"role": "user", "content": "a\x00b"}]}, 400, "messages[0].content", "invalid_text"),
    ({"temperature": 3}, 400, "temperature", "invalid_value"),
    ({"temperature": -0.1}, 400, "temperature", "invalid_value"),
    ({"top_p": 0}, 400, "top_p", "invalid_value"),
    ({"top_k": 10**6}, 400, "top_k", "invalid_value"),
    ({"seed": 2**70}, 400, "seed", "invalid_value"),
    ({"stop": ["x"] * 17}, 400, "stop", "invalid_value"),
    ({"stop": ""}, 400, "stop", "invalid_value"),
    ({"max_tokens": 0}, 400, "max_tokens", "invalid_value"),
    ({"max_tokens": CONTEXT}, 400, "messages", "context_length_exceeded"),
    ({"stop_token_ids": [99999]}, 400, "stop_token_ids", "invalid_value"),
    ({"min_tokens": 3}, 400, "min_tokens", "invalid_value"),
    ({"top_logprobs": 2}, 400, "top_logprobs", "invalid_value"),
    ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs", "invalid_value"),
    ({"logit_bias": {"99999": 1}}, 400, "logit_bias", "invalid_value"),
    ({"logit_bias": {"a": 1}}, 400, "logit_bias", "invalid_value"),
    ({"logit_bias": {"1": 101}}, 400, "logit_bias", "invalid_value"),
    ({"tools": [{"type": "function"}]}, 400, "tools[0].function", "missing_required_parameter"),
    ({"functions": [{"name": "add"}]}, 400, "functions", "unsupported_parameter"),
    ({"stop": "x<|im_end|>"}, 400, "stop", "invalid_value"),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options", "invalid_value"),
    ({"grader": {"type": "oracle"}}, 400, "grader.type", "invalid_grader"),
    ({"grader": {**GRADER, "operation": "similar"}}, 400, "grader.operation", "invalid_grader"),
    ({"metadata": {"a": 1}}, 400, "metadata.a", "invalid_value"),
    ({"priority": -1}, 403, "priority", "missing_scope"),
    ({"messages": [{"role": "user", "content": "1 " * CONTEXT}]}, 400, "messages", "context_length_exceeded"),
]


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert response.headers["x-request-id"]
    found: dict[str, Any] = body["error"]
    return found


@pytest.mark.parametrize(("change", "status", "param", "code"), BAD_CHAT, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_bad_chat_request_is_told_what_is_wrong(
    live: Live, change: dict[str, Any], status: int, param: str, code: str, *, stream: bool
) -> None:
    if stream and "stream_options" in change:
        change = {"stream_options": {"include_usage": "yes"}}
        param = "stream_options.include_usage"
    body = {name: value for name, value in {**ASK, **change, "stream": stream}.items() if value is not None}
    if change.get("messages", 0) is None:
        code = "missing_required_parameter"
    response = live.http().post("/v1/chat/completions", json=body)
    error = error_of(response)
    assert (response.status_code, error["param"], error["code"]) == (status, param, code)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [10**9]}, "prompt"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": {"text": "a"}}, "prompt"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": [5] * CONTEXT}, "prompt"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_completion_request_is_told_what_is_wrong(live: Live, change: dict[str, Any], param: str) -> None:
    response = live.http().post("/v1/completions", json={"model": "lepo", **change})
    assert (response.status_code, error_of(response)["param"]) == (400, param)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b'{"model": "lepo",', "invalid_json"),
        (b"", "missing_required_parameter"),
        (b"[1, 2]", "invalid_value"),
        (b'{"model": "lepo", "messages": "\xff"}', "invalid_request"),
        (b"[" * 100_000, "invalid_request"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "invalid_request"),
        (json.dumps({**ASK, "temperature": float("nan")}).encode(), "invalid_value"),
        (json.dumps({**ASK, "latent": {"tau": float("inf")}}).encode(), "invalid_value"),
        (json.dumps({**ASK, "grader": {**GRADER, "reference": float("inf")}}).encode(), "invalid_value"),
        (b'{"model": "lepo", "messages": [{"role": "user", "content": "\\ud800"}]}', "invalid_text"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_body_that_is_not_good_json_is_a_400(live: Live, content: bytes, code: str) -> None:
    response = live.http().post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
    assert (response.status_code, error_of(response)["code"]) == (400, code)


def test_a_body_of_another_kind_is_a_400(live: Live) -> None:
    response = live.http().post("/v1/chat/completions", content=b"{}", headers={"Content-Type": "text/plain"})
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_10_mb_prompt_is_a_413_that_reaches_the_client(live: Live, *, chunked: bool) -> None:
    text = json.dumps({**ASK, "messages": [{"role": "user", "content": "1 " * 5_000_000}]}).encode()
    content = iter([text[start : start + 65536] for start in range(0, len(text), 65536)]) if chunked else text
    response = live.http().post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
    assert (response.status_code, error_of(response)["code"]) == (413, "request_too_large")
    assert live.answer()["choices"]


def test_unknown_routes_and_methods_are_errors_of_the_same_shape(live: Live) -> None:
    unknown = live.http().get("/v1/engines")
    assert (unknown.status_code, error_of(unknown)["code"]) == (404, "route_not_found")
    method = live.http().get("/v1/chat/completions")
    assert (method.status_code, error_of(method)["code"]) == (405, "method_not_allowed")
    assert live.http().get("/v1/models/gpt-4").status_code == 404


def test_nothing_refused_is_remembered(live: Live) -> None:
    def count() -> int:
        return len(live.http("admin").get("/v1/interactions", params={"limit": 1000}).json()["data"])

    before = count()
    live.chat(latent={"length": -1})
    live.chat(n=10**6)
    assert count() == before


def test_values_that_change_nothing_are_accepted(live: Live) -> None:
    """Clients send every field they know; only what would change the answer may be refused."""
    harmless: dict[str, Any] = {
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "tools": [],
        "response_format": {"type": "text"},
        "store": False,
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "max_completion_tokens": 6,
        "skip_special_tokens": True,
        "stop": None,
        "n": None,
    }
    assert live.chat(max_tokens=2, **harmless).status_code == 200
