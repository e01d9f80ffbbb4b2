"""Requests that schemathesis found to be answered wrongly, one of each kind."""

from typing import Any

import pytest

from tests.app.api.live import Live


def told(response: Any) -> tuple[int, str | None]:
    """Status, and the field that is named."""
    return response.status_code, response.json()["error"]["param"]


@pytest.mark.parametrize("penalty", [5e-324, 1e-300, 0.0099])
def test_a_penalty_that_would_divide_by_nothing_is_refused(live: Live, penalty: float) -> None:
    """It gave logits that are no numbers, and an engine that sees such ends: one request closed the server."""
    assert told(live.chat(repetition_penalty=penalty, max_tokens=2)) == (400, "repetition_penalty")
    assert live.chat(repetition_penalty=0.01, max_tokens=4).status_code == 200
    assert live.http(None).get("/health").status_code == 200


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/admin/jobs", "GET, HEAD, POST"),
        ("/v1/admin/keys/agreement", "GET, HEAD"),
        ("/v1/admin/keys/abc", "DELETE, PATCH"),
        ("/v1/sessions/abc", "DELETE, GET, HEAD"),
        ("/v1/chat/completions", "POST"),
    ],
)
def test_a_405_names_every_method_of_the_path(live: Live, path: str, methods: str) -> None:
    response = live.http("admin").put(path)
    assert (response.status_code, response.headers["allow"]) == (405, methods)


@pytest.mark.parametrize("wrong", ["0.5", "1700000000", "yesterday", "-1", "inf"])
def test_a_time_that_is_no_date_is_refused(live: Live, wrong: str) -> None:
    """A number was read as seconds, or milliseconds, by its size."""
    assert told(live.http().get("/v1/interactions", params={"since": wrong})) == (400, "since")
    for right in ("2026-01-31", "2026-01-31T12:00:00Z", "2026-01-31T12:00:00.5+02:00"):
        assert live.http().get("/v1/interactions", params={"since": right}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/interactions?user=a%00",
        "/v1/interactions?completion_id=%00",
        "/v1/interactions/%00",
        "/v1/interactions/a%00b/grades",
        "/v1/sessions/a%00b",
        "/v1/sessions?name=%00",
        "/v1/admin/projects/%00",
        "/v1/admin/keys?after=%00",
        "/v1/models/%00",
    ],
)
def test_u0000_in_an_address_is_refused(live: Live, path: str) -> None:
    assert live.http("admin").get(path).status_code == 400


def test_a_name_of_a_session_is_bounded_wherever_it_stands(live: Live) -> None:
    """Also where another field goes before it."""
    asked = {"model": "lepo", "messages": [{"role": "user", "content": "2"}], "session_id": "short", "max_tokens": 2}
    long = live.http().post("/v1/chat/completions", json=asked, headers={"X-Session-Id": "x" * 257})
    assert long.status_code == 400
    assert "256" in long.json()["error"]["message"]


def test_a_whole_number_may_be_written_with_a_point(live: Live) -> None:
    admin = live.http("admin")
    body, headers = b'{"name": "k", "scopes": ["infer"], "max_choices": 5.0}', {"Content-Type": "application/json"}
    made = admin.post("/v1/admin/keys", content=body, headers=headers)
    assert made.json()["limits"]["max_choices"] == 5
    for wrong in (5.5, True, "5", -1, -1.0):
        path = f"/v1/admin/keys/{made.json()['id']}"
        assert told(admin.patch(path, json={"max_choices": wrong})) == (400, "max_choices"), wrong
