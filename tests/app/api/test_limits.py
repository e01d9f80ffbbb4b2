"""Rates, quotas, lent tokens, bad keys and other origins, on a server whose settings bound them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import event

from app.api.door.strangers import Strangers
from tests.app.api.live import Live, served, wait_for
from tests.app.api.test_refusals import ASK, error_of

FRONT = "https://front.example.org"
CHAT: dict[str, Any] = {**ASK, "model": "lepo", "max_tokens": 2}


@pytest.fixture(scope="module")
def live(module_database_url: str, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with served(
        module_database_url,
        model_dir,
        tmp_path_factory.mktemp("var"),
        requests_per_minute=900,
        tokens_per_minute=90_000,
        project_requests_per_minute=1800,
        project_tokens_per_minute=180_000,
        project_stored_bytes=50_000_000,
        project_grading_seconds=500.0,
        token_grades=2,
        token_grade_text=20,
        bad_keys_per_minute=5,
        cors_origins=f"http://localhost:3000, {FRONT}",
        max_body_bytes=4096,
    ) as server:
        yield server


def made(live: Live, **body: Any) -> httpx.Client:
    """A client with a key of its own."""
    asked = {"name": "k", "scopes": ["infer", "grade"], **body}
    response = live.http("admin").post("/v1/admin/keys", json=asked)
    assert response.status_code == 201, response.text
    return httpx.Client(base_url=live.url, timeout=30, headers={"Authorization": f"Bearer {response.json()['key']}"})


def project(live: Live, name: str, **limits: Any) -> str:
    response = live.http("admin").post("/v1/admin/projects", json={"id": name, **limits})
    assert response.status_code == 201, response.text
    return name


def test_the_settings_are_the_limits_of_a_key_that_has_none(live: Live) -> None:
    with made(live, project=project(live, "plain")) as client:
        headers = client.post("/v1/chat/completions", json=CHAT).headers
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("900", "899")
    assert (headers["x-ratelimit-limit-tokens"], headers["x-ratelimit-remaining-tokens"]) == ("90000", "90000")
    assert 0 < float(headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60


def test_a_key_asks_no_more_than_it_may_and_reads_on(live: Live) -> None:
    with made(live, requests_per_minute=2) as client, made(live) as other:
        left = [client.post("/v1/chat/completions", json=CHAT).headers for _ in range(2)]
        assert [one["x-ratelimit-remaining-requests"] for one in left] == ["1", "0"]
        refused = client.post("/tokenize", json={"prompt": "a"})
        error = error_of(refused)
        assert (refused.status_code, error["type"], error["code"]) == (429, "rate_limit_error", "rate_limit_exceeded")
        assert 50 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert client.get("/v1/interactions").status_code == 200
        assert other.post("/tokenize", json={"prompt": "a"}).status_code == 200
        [listed] = [
            one for one in live.http("admin").get("/v1/admin/keys").json()["data"] if one["id"] in error["message"]
        ]
        raised = live.http("admin").patch(f"/v1/admin/keys/{listed['id']}", json={"requests_per_minute": 100})
        assert raised.json()["limits"]["requests_per_minute"] == 100
        assert client.post("/tokenize", json={"prompt": "a"}).status_code == 200


def test_keys_of_a_project_share_its_rate_and_one_keys_refusals_are_its_own(live: Live) -> None:
    name = project(live, "small", requests_per_minute=4)
    with made(live, project=name, requests_per_minute=1) as one, made(live, project=name) as two:
        assert [one.post("/tokenize", json={"prompt": "a"}).status_code for _ in range(5)] == [200, *[429] * 4]
        assert [two.post("/tokenize", json={"prompt": "a"}).status_code for _ in range(4)] == [200, 200, 200, 429]
        last = two.post("/tokenize", json={"prompt": "a"})
        assert "The project small" in error_of(last)["message"]
        assert last.headers["x-ratelimit-limit-requests"] == "4"


def test_tokens_count_when_an_answer_ends(live: Live) -> None:
    with made(live, tokens_per_minute=25) as client:
        usage = client.post("/v1/chat/completions", json={**CHAT, "max_tokens": 8, "ignore_eos": True}).json()["usage"]
        assert usage["total_tokens"] > 25
        refused = client.post("/v1/chat/completions", json=CHAT)
        assert (refused.status_code, error_of(refused)["code"]) == (429, "rate_limit_exceeded")
        assert refused.headers["x-ratelimit-remaining-tokens"] == "0"
        assert "tokens a minute" in error_of(refused)["message"]
    with made(live, tokens_per_minute=1000) as client:
        usage = client.post("/v1/chat/completions", json=CHAT).json()["usage"]
        wait_for(
            lambda: (
                client.post("/tokenize", json={"prompt": "a"}).headers["x-ratelimit-remaining-tokens"]
                == str(1000 - usage["total_tokens"])
            )
        )


def test_a_key_has_its_own_largest_n(live: Live) -> None:
    with made(live, max_choices=2) as client:
        assert client.post("/v1/chat/completions", json={**CHAT, "n": 2}).status_code == 200
        refused = client.post("/v1/chat/completions", json={**CHAT, "n": 3})
        assert (refused.status_code, error_of(refused)["param"]) == (400, "n")
        body = {"model": "lepo", "prompt": ["a", "b", "c"], "max_tokens": 1}
        assert error_of(client.post("/v1/completions", json=body))["param"] == "prompt"


def test_a_project_keeps_no_more_bytes_than_it_may(live: Live) -> None:
    name = project(live, "full", stored_bytes=1000)
    with made(live, project=name) as client:
        done = client.post("/v1/chat/completions", json=CHAT).json()["choices"][0]["interaction_id"]
        kept = live.http("admin").get(f"/v1/admin/projects/{name}").json()["usage"]["stored_bytes"]
        assert kept > 1000
        live.http("admin").patch(f"/v1/admin/projects/{name}", json={})  # what it uses is read anew
        for path, body in (("/v1/chat/completions", CHAT), (f"/v1/interactions/{done}/grades", {"value": 1})):
            refused = client.post(path, json=body)
            assert (refused.status_code, error_of(refused)["code"]) == (429, "insufficient_quota"), path
        assert client.delete(f"/v1/interactions/{done}").status_code == 200
        assert live.http("admin").get(f"/v1/admin/projects/{name}").json()["usage"]["stored_bytes"] == 0
        live.http("admin").patch(f"/v1/admin/projects/{name}", json={"stored_bytes": 0})
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200


def test_a_project_has_its_graders_for_so_long_a_day(live: Live) -> None:
    name = project(live, "slow", grading_seconds=1e-9)
    spec = {"type": "math", "reference": "2"}
    with made(live, project=name) as client:
        first = client.post("/v1/graders/run", json={"grader": spec, "answer": "2"})
        assert (first.status_code, first.json()["value"]) == (200, 1.0)
        live.http("admin").patch(f"/v1/admin/projects/{name}", json={})
        for path, body in (
            ("/v1/graders/run", {"grader": spec, "answer": "2"}),
            ("/v1/graders/validate", {"grader": spec}),
            ("/v1/chat/completions", {**CHAT, "grader": spec}),
        ):
            refused = client.post(path, json=body)
            assert (refused.status_code, error_of(refused)["code"]) == (429, "insufficient_quota"), path
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200


def test_a_lent_token_grades_a_few_times_in_few_words_until_it_is_taken_back(live: Live) -> None:
    target = live.answer()["choices"][0]["interaction_id"]
    url = f"/v1/interactions/{target}"
    tokens = [live.http().post(f"{url}/grading_tokens", json={}).json() for _ in range(2)]
    more = live.http().post(f"{url}/grading_tokens", json={"grades": 3}).json()
    assert [one["grades"] for one in (*tokens, more)] == [2, 2, 3]
    headers = [{"Authorization": f"Bearer {one['token']}"} for one in (*tokens, more)]
    ask = live.http(None)
    long = ask.post(f"{url}/grades", json={"value": 1, "comment": "x" * 21}, headers=headers[0])
    assert (long.status_code, error_of(long)["code"]) == (413, "text_too_large")
    assert live.http().post(f"{url}/grades", json={"value": 1, "comment": "x" * 21}).status_code == 201, "a key may"
    once = headers[0] | {"Idempotency-Key": "one"}
    assert [ask.post(f"{url}/grades", json={"value": 1}, headers=once).status_code for _ in range(3)] == [201] * 3
    assert ask.request("DELETE", f"{url}/grades?kind=user", headers=headers[0]).status_code == 200
    spent = ask.post(f"{url}/grades", json={"value": 1}, headers=headers[0])
    assert (spent.status_code, error_of(spent)["code"]) == (403, "grading_token_used_up")
    assert ask.post(f"{url}/grades", json={"value": 1}, headers=headers[1]).status_code == 201
    one = live.http().delete(f"{url}/grading_tokens", params={"id": tokens[1]["id"]})
    assert one.json()["revoked"] == 1
    gone = ask.post(f"{url}/grades", json={"value": 1}, headers=headers[1])
    assert (gone.status_code, error_of(gone)["code"]) == (401, "invalid_grading_token")
    assert ask.post(f"{url}/grades", json={"value": 1}, headers=headers[2]).status_code == 201
    assert live.http().delete(f"{url}/grading_tokens").json()["revoked"] == 2
    assert ask.post(f"{url}/grades", json={"value": 1}, headers=headers[2]).status_code == 401


def test_an_origin_that_is_named_may_ask_and_read_the_headers(live: Live) -> None:
    asked = {
        "Origin": FRONT,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    preflight = httpx.options(f"{live.url}/v1/interactions/x/grades", headers=asked)
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, FRONT)
    large = live.http().post("/v1/chat/completions", content=b"x" * 5000, headers={"Origin": FRONT})
    assert (large.status_code, large.headers["access-control-allow-origin"]) == (413, FRONT)
    closed = live.http(None).get("/v1/models", headers={"Origin": FRONT})
    assert (closed.status_code, closed.headers["access-control-allow-origin"]) == (401, FRONT)
    exposed = closed.headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "retry-after", "x-ratelimit-remaining-requests"} <= set(exposed)
    stranger = live.http(None).get("/version", headers={"Origin": "https://elsewhere.example"})
    assert "access-control-allow-origin" not in stranger.headers


def test_a_bad_key_costs_a_query_once_and_many_cost_none_and_a_good_one_goes_on(live: Live) -> None:
    queries: list[str] = []
    event.listen(live.store.engine, "before_cursor_execute", lambda *told: queries.append(told[2]))

    def bad(digit: str) -> dict[str, str]:
        return {"Authorization": f"Bearer lepo-aaaa-{digit * 40}"}

    def tried(digit: str) -> int:
        return httpx.get(f"{live.url}/v1/models", headers=bad(digit)).status_code

    assert live.http().get("/v1/models").status_code == 200
    before = len(queries)
    assert tried("0") == 401
    looked = len([one for one in queries[before:] if "api_keys" in one])
    assert looked == 1
    assert [tried("0") for _ in range(2)] == [401, 401]
    assert len([one for one in queries[before:] if "api_keys" in one]) == looked, "it is remembered"
    statuses = [tried(digit) for digit in "123456789abcdef"]
    assert 429 in statuses
    looked += statuses.count(401)
    assert len([one for one in queries[before:] if "api_keys" in one]) == looked, "whoever is refused costs none"
    refused = next(
        response
        for digit in "ABCDEFGHIJ"
        if (response := httpx.get(f"{live.url}/v1/models", headers=bad(digit))).status_code == 429
    )
    assert error_of(refused)["code"] == "too_many_bad_keys"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert live.http().get("/v1/models").status_code == 200, "whoever shares the address goes on"


def test_a_revoked_key_is_told_so_when_it_is_its_holder_who_asks(live: Live) -> None:
    live.httpd._app.state.server.strangers = Strangers(1000)
    with made(live) as client:
        key = client.headers["Authorization"].split("-")[1]
        live.http("admin").delete(f"/v1/admin/keys/{key}")
        said = client.get("/v1/models")
        assert (said.status_code, error_of(said)["code"]) == (401, "revoked_api_key")
