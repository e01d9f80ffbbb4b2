"""What operators did is on record; what was secret in a whole session is in no log."""

import json
import logging
import re
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from app.commands.keys import command as keys_command
from app.store.keys import create_key
from app.store.projects import create_project
from tests.app.api.live import Live, wait_for


def entries(live: Live, key: str | None = None, **query: Any) -> dict[str, Any]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    found: dict[str, Any] = live.http("admin").get("/v1/admin/audit", params=query, headers=headers).json()
    return found


def test_every_action_of_an_operator_is_on_record_with_its_outcome(live: Live) -> None:
    admin = live.http("admin")
    me = live.keys["admin"].split("-")[1]
    made = admin.post("/v1/admin/keys", json={"name": "n", "scopes": ["infer"]}, headers={"X-Request-Id": "req-made"})
    admin.post("/v1/admin/checkpoints/999/promote", json={})
    admin.post("/v1/admin/jobs", content=b"{")
    admin.delete("/v1/users/ada-lovelace/data")
    admin.get("/v1/admin/export")
    admin.get("/v1/admin/keys")
    live.http("both").post("/v1/admin/keys", json={"name": "n", "scopes": ["infer"]})
    page = entries(live, limit=5)
    found = [(one["actor"], one["action"], one["outcome"]) for one in page["data"]]
    assert found == [
        (me, "GET /v1/admin/export", "200"),
        (me, "DELETE /v1/users/*/data", "200"),
        (me, "POST /v1/admin/jobs", "400"),
        (me, "POST /v1/admin/checkpoints/999/promote", "404"),
        (me, "POST /v1/admin/keys", "201"),
    ]
    first = page["data"][-1]
    assert (first["target"], first["request_id"], first["project"]) == (made.json()["id"], "req-made", None)
    assert "ada-lovelace" not in json.dumps(page)
    older = entries(live, limit=2, after=page["data"][2]["id"])
    assert [one["id"] for one in older["data"]] == [one["id"] for one in page["data"][3:]]


def test_a_project_sees_what_its_own_keys_did(live: Live) -> None:
    with live.store.session() as session:
        create_project(session, "watched")
        row, key = create_key(session, "lead", ["admin"], project="watched")
    headers = {"Authorization": f"Bearer {key}"}
    made = live.http(None).post("/v1/admin/keys", json={"name": "mine", "scopes": ["admin"]}, headers=headers).json()
    assert made["project"] == "watched"
    wait_for(lambda: entries(live, key)["data"][0]["outcome"] is not None)  # written behind the response
    seen = entries(live, key)["data"]
    assert [(one["actor"], one["target"], one["project"]) for one in seen] == [(row.id, made["id"], "watched")]
    assert [one["id"] for one in live.http(None).get("/v1/admin/projects", headers=headers).json()["data"]] == [
        "watched"
    ]
    refused = live.http(None).post("/v1/admin/learning/freeze", json={}, headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "service_key_needed")


def test_no_log_of_a_session_holds_a_secret_that_was_made_in_it(
    live: Live, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every logger at its loudest, SQL statements with their parameters too."""
    caplog.set_level(logging.DEBUG)
    for name in ("sqlalchemy.engine", "uvicorn", "httpx", "httpcore", "lepo"):
        caplog.set_level(logging.DEBUG, logger=name)
    monkeypatch.setenv("LEPO_DATABASE_URL", str(live.settings.database_url))
    secrets = [CliRunner().invoke(keys_command, ["create", "shell", "--direct"]).stdout.strip()]
    for scopes in (["infer"], ["infer", "grade"], ["admin"]):
        made = live.http("admin").post("/v1/admin/keys", json={"name": "made", "scopes": scopes})
        secrets.append(made.json()["key"])
    secrets.append(f"lepo-aaaa-{'7c' * 30}")  # a wrong one
    target = live.answer()["choices"][0]["interaction_id"]
    url = f"/v1/interactions/{target}"
    secrets.append(live.http().post(f"{url}/grading_tokens", json={}).json()["token"])
    secrets.append(secrets[-1][:-1] + ("0" if secrets[-1][-1] != "0" else "1"))  # a forged one
    for secret in secrets:
        headers = {"Authorization": f"Bearer {secret}", "Idempotency-Key": "k"}
        for path, body in (
            (f"{url}/grades", {"value": 1}),
            (
                "/v1/chat/completions",
                {"model": "lepo", "messages": [{"role": "user", "content": "2"}], "max_tokens": 2},
            ),
            ("/v1/admin/learning/thaw", {}),
            ("/v1/none", {}),
        ):
            httpx.post(f"{live.url}{path}", headers=headers, json=body)
    live.http("admin").delete(f"/v1/admin/keys/{secrets[1].split('-')[1]}")
    secrets += live.keys.values()
    logged = caplog.text + "".join(capfd.readouterr())
    assert "INSERT INTO" in logged, "the statements are there to be looked through"
    for secret in secrets:
        hidden = re.split(r"[-.]", secret)[-1]
        assert len(hidden) >= 32
        assert hidden not in logged, secret.split("-")[1]
