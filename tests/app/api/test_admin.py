"""Who may do what; jobs, checkpoints, keys and the overview for operators; health and metrics for machines."""

import re
import time
from typing import Any

import httpx
import pytest

from app.store.keys import create_key
from tests.app.api.live import Live, wait_for

CLOSED = [
    ("POST", "/v1/chat/completions", "infer"),
    ("POST", "/v1/completions", "infer"),
    ("GET", "/v1/models", "infer"),
    ("POST", "/tokenize", "infer"),
    ("GET", "/v1/interactions", "infer"),
    ("POST", "/v1/interactions/int_x/grades", "grade"),
    ("POST", "/v1/graders/run", "grade"),
    ("GET", "/v1/admin/jobs", "admin"),
    ("POST", "/v1/admin/jobs", "admin"),
    ("GET", "/v1/admin/checkpoints", "admin"),
    ("GET", "/v1/admin/checkpoints/0/lineage", "admin"),
    ("POST", "/v1/admin/checkpoints/0/promote", "admin"),
    ("POST", "/v1/admin/checkpoints/0/discard", "admin"),
    ("POST", "/v1/admin/rollback", "admin"),
    ("GET", "/v1/admin/transitions", "admin"),
    ("GET", "/v1/admin/learning", "admin"),
    ("POST", "/v1/admin/learning/freeze", "admin"),
    ("POST", "/v1/admin/learning/thaw", "admin"),
    ("POST", "/v1/admin/learning/pin", "admin"),
    ("POST", "/v1/admin/learning/unpin", "admin"),
    ("GET", "/v1/admin/keys", "admin"),
    ("POST", "/v1/admin/keys", "admin"),
    ("POST", "/v1/admin/keys/nobody/trust", "admin"),
    ("GET", "/v1/admin/keys/agreement", "admin"),
    ("GET", "/v1/admin/overview", "admin"),
]


@pytest.mark.parametrize(("method", "path", "scope"), CLOSED, ids=lambda value: value)
def test_every_route_needs_a_key_of_its_scope(live: Live, method: str, path: str, scope: str) -> None:
    bodies = {"/v1/interactions/int_x/grades": {"value": 1}, "/v1/graders/run": {"grader": {}, "answer": ""}}
    json_body = bodies.get(path, {"model": "lepo", "messages": [{"role": "user", "content": "a"}], "prompt": "a"})
    none = live.http(None).request(method, path, json=json_body)
    assert (none.status_code, none.json()["error"]["code"]) == (401, "missing_api_key")
    assert none.headers["www-authenticate"] == "Bearer"
    wrong = httpx.request(
        method, live.url + path, json=json_body, headers={"Authorization": "Bearer lepo-aaaa-" + "b" * 40}
    )
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "invalid_api_key")
    other = live.http("grade" if scope == "infer" else "infer").request(method, path, json=json_body)
    assert (other.status_code, other.json()["error"]["code"]) == (403, "missing_scope")


def test_no_route_is_open_but_those_that_say_little(live: Live) -> None:
    """Walk the schema: a route that is added without a thought is closed."""
    open_paths = set()
    for path, methods in httpx.get(f"{live.url}/openapi.json").json()["paths"].items():
        for method in methods:
            if live.http(None).request(method, re.sub(r"\{.*?\}", "x", path)).status_code != 401:
                open_paths.add(path)
    assert open_paths == {"/health", "/ready", "/version", "/metrics"}


def test_a_revoked_key_is_closed_at_once(live: Live) -> None:
    made = live.http("admin").post("/v1/admin/keys", json={"name": "guest", "scopes": ["infer"]}).json()
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert httpx.get(f"{live.url}/v1/models", headers=headers).status_code == 200
    listed = live.http("admin").get("/v1/admin/keys").text
    assert made["id"] in listed
    assert made["key"] not in listed
    assert live.http("admin").delete(f"/v1/admin/keys/{made['id']}").status_code == 200
    assert httpx.get(f"{live.url}/v1/models", headers=headers).status_code == 401


def test_a_key_revoked_elsewhere_is_closed_within_seconds(live: Live) -> None:
    from app.store.keys import revoke

    with live.store.session() as session:
        row, text = create_key(session, "elsewhere", ["infer"])
    headers = {"Authorization": f"Bearer {text}"}
    assert httpx.get(f"{live.url}/v1/models", headers=headers).status_code == 200
    with live.store.session() as session:
        revoke(session, row.id)
    wait_for(lambda: httpx.get(f"{live.url}/v1/models", headers=headers).status_code == 401, seconds=5)


def test_a_key_in_quarantine_makes_no_reward_until_released(live: Live) -> None:
    admin = live.http("admin")
    key_id = live.keys["both"].split("-")[1]
    answer = f"/v1/interactions/{live.answer()['choices'][0]['interaction_id']}"
    assert live.http("both").post(f"{answer}/grades", json={"value": 1}).json()["reward"]["value"] == 1
    body = {"trust": "quarantined", "reason": "praises everything"}
    held = admin.post(f"/v1/admin/keys/{key_id}/trust", json=body).json()
    assert (held["trust"], held["trust_reason"]) == ("quarantined", "praises everything")
    assert held["trust_by"] == live.keys["admin"].split("-")[1]
    assert live.http("both").get(answer).json()["reward"] is None
    later = live.http("both").post(f"{answer}/grades", json={"value": 0})
    assert (later.status_code, later.json()["reward"]) == (201, None)
    assert admin.post(f"/v1/admin/keys/{key_id}/trust", json={"trust": "ordinary"}).json()["trust"] == "ordinary"
    assert live.http("both").get(answer).json()["reward"]["value"] == 0
    assert admin.get("/v1/admin/keys/agreement").json()["data"] == []
    assert admin.post("/v1/admin/keys/nobody/trust", json={"trust": "trusted"}).status_code == 404
    assert admin.post(f"/v1/admin/keys/{key_id}/trust", json={"trust": "hated"}).json()["error"]["param"] == "trust"


def test_a_job_is_a_row_that_can_be_followed_and_cancelled(live: Live) -> None:
    admin = live.http("admin")
    headers = {"Idempotency-Key": "job-1"}
    made = admin.post("/v1/admin/jobs", json={"config": {"learning_rate": 1e-4}}, headers=headers)
    assert (made.status_code, made.json()["status"], made.json()["config"]) == (201, "queued", {"learning_rate": 1e-4})
    assert admin.post("/v1/admin/jobs", json={"config": {"learning_rate": 1e-4}}, headers=headers).json() == made.json()
    job = made.json()["id"]
    assert admin.get(f"/v1/admin/jobs/{job}").json() == made.json()
    assert [row["id"] for row in admin.get("/v1/admin/jobs", params={"status": "queued"}).json()["data"]] == [job]
    assert admin.get(f"/v1/admin/jobs/{job}/events").json()["data"] == []
    once = {"Idempotency-Key": "cancel-1"}
    cancelled = admin.post(f"/v1/admin/jobs/{job}/cancel", headers=once).json()
    assert (cancelled["status"], cancelled["fault"]) == ("cancelled", "operator")
    assert admin.post(f"/v1/admin/jobs/{job}/cancel", headers=once).json() == cancelled, "a retry is answered again"
    assert admin.post(f"/v1/admin/jobs/{job}/cancel").status_code == 409
    [line] = admin.get(f"/v1/admin/jobs/{job}/events").json()["data"]
    assert line["message"] == f"{live.keys['admin'].split('-')[1]} asked to cancel it"
    assert admin.get("/v1/admin/jobs/job_x").status_code == 404


@pytest.mark.parametrize(
    ("config", "param"),
    [
        ({"learning_rate": -1}, "config.learning_rate"),
        ({"model": "other"}, "config"),
        ({"learning_rate": "x"}, "config.learning_rate"),
    ],
    ids=str,
)
def test_a_job_takes_only_settings_that_are_a_jobs(live: Live, config: dict[str, Any], param: str) -> None:
    response = live.http("admin").post("/v1/admin/jobs", json={"config": config})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_the_overview_counts_what_happened(live: Live) -> None:
    own = live.answer()["choices"][0]["interaction_id"]
    live.http().post(f"/v1/interactions/{own}/grades", json={"value": 1})
    seen = live.http("admin").get("/v1/admin/overview").json()
    assert seen["interactions"] >= 1
    assert seen["grades"]["client"] >= 1
    assert isinstance(seen["serving_version"], int)


def test_health_ready_and_version_are_open(live: Live) -> None:
    for path in ("/health", "/ready", "/version"):
        assert live.http(None).get(path).status_code == 200, path


def test_metrics_count_what_was_done(live: Live) -> None:
    def value(name: str, **labels: str) -> float:
        found = 0.0
        for line in live.http(None).get("/metrics").text.splitlines():
            if re.match(rf"{re.escape(name)}(\{{|\s)", line) and all(f'{k}="{v}"' in line for k, v in labels.items()):
                found += float(line.rsplit(" ", 1)[1])
        return found

    names = ("lepo:generation_tokens_total", "lepo:latent_steps_total", "lepo:prompt_tokens_total")
    before = {name: value(name) for name in names}
    done = value("lepo:request_success_total", finished_reason="length")
    usage = live.answer(max_tokens=5, ignore_eos=True)["usage"]
    wait_for(lambda: value("lepo:request_success_total", finished_reason="length") == done + 1)
    grown = [value(name) - before[name] for name in names]
    assert grown == [5, 3, usage["prompt_tokens"]]
    for name in ("time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds"):
        assert value(f"lepo:{name}_count") > 0, name
    assert value("lepo:num_requests_running") == value("lepo:num_requests_waiting") == 0
    grades = value("lepo:grades_total", kind="client")
    own = live.answer()["choices"][0]["interaction_id"]
    live.http().post(f"/v1/interactions/{own}/grades", json={"value": 1})
    assert value("lepo:grades_total", kind="client") == grades + 1


def test_models_are_listed_as_openai_lists_them(live: Live) -> None:
    (model,) = live.http().get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["created"] <= time.time()) == ("lepo", "model", True)
    assert live.http().get("/v1/models/lepo").json()["id"] == "lepo"
