"""Removal, export and redaction over HTTP: whose right it is, what is answered, and that nothing leaks."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select, text

from app.api.grading.grades import GradeBody
from app.store.export import page
from app.store.interactions import rollout
from app.store.removed import Erasure
from app.store.tables import Interaction
from tests.app.api.live import Live, served, sse

HIDE = "tests.app.redaction.functions:hide"


def asked(live: Live, key: str = "both", **body: Any) -> str:
    """Ask one question; returns the answer's id."""
    response = live.chat(key, **{"max_tokens": 4, **body})
    assert response.status_code == 200, response.text
    found: str = response.json()["choices"][0]["interaction_id"]
    return found


def everything(live: Live) -> str:
    with live.store.session() as session:
        tables = session.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
        rows = [session.scalars(text(f"SELECT t::text FROM {table} AS t")).all() for table in tables]
    return "\n".join(row for table in rows for row in table)


def test_an_admin_removes_a_users_data_and_asks_again(live: Live) -> None:
    user = "Ada Lovelace/née Byron@example"
    mine = [asked(live, user=user, metadata={"note": "private-note"}) for _ in range(2)]
    other = asked(live, user="bob")
    grade = {"value": 1, "comment": "private-comment"}
    headers = {"Idempotency-Key": "same"}
    posted = live.http().post(f"/v1/interactions/{mine[0]}/grades", json=grade, headers=headers)
    assert posted.status_code == 201
    path = f"/v1/users/{httpx.QueryParams({'u': user})}".replace("u=", "").replace("+", "%20") + "/data"
    done = live.http("admin").delete(path)
    assert done.status_code == 200, done.text
    body = done.json()
    assert body["finished"]
    assert body["removed"] == {"interactions": 2, "rollouts": 2, "grades": 1, "idempotency_keys": 1, "requests": 2}
    assert body["policies"] == []
    for word in ("Lovelace", "private-note", "private-comment"):
        assert word not in everything(live)
    assert live.http().get(f"/v1/interactions/{mine[0]}").status_code == 404
    assert live.http().get(f"/v1/interactions/{other}").status_code == 200
    again = live.http("admin").delete(path).json()
    assert (again["finished"], again["removed"]) == (True, {})
    retried = live.http().post(f"/v1/interactions/{mine[0]}/grades", json=grade, headers=headers)
    assert retried.status_code == 404, "not the stored answer"
    with live.store.session() as session:
        rows = session.scalars(select(Erasure).where(Erasure.subject == "user")).all()
        assert {row.actor for row in rows} == {live.keys["admin"].split("-")[1]}


@pytest.mark.parametrize("key", ["infer", "grade", "both"])
def test_a_users_data_is_for_admins(live: Live, key: str) -> None:
    assert live.http(key).delete("/v1/users/ada/data").status_code == 403
    assert live.http(key).get("/v1/admin/export").status_code == 403


def test_a_key_narrows_the_removal(live: Live) -> None:
    mine, theirs = asked(live, "infer", user="shared"), asked(live, "both", user="shared")
    key = live.keys["infer"].split("-")[1]
    assert (
        live.http("admin").delete("/v1/users/shared/data", params={"key": key}).json()["removed"]["interactions"] == 1
    )
    assert live.http("admin").get(f"/v1/interactions/{mine}").status_code == 404
    assert live.http("admin").get(f"/v1/interactions/{theirs}").status_code == 200


def test_an_answer_is_removed_by_who_asked_it_or_an_admin(live: Live) -> None:
    mine, other = asked(live, "both"), asked(live, "both")
    assert live.http("infer").delete(f"/v1/interactions/{mine}").status_code == 404, "another's"
    assert live.http("grade").delete(f"/v1/interactions/{mine}").status_code == 403
    for _ in range(2):
        done = live.http("both").delete(f"/v1/interactions/{mine}")
        assert (done.status_code, done.json()["finished"]) == (200, True)
    assert live.http("infer").delete(f"/v1/interactions/{mine}").status_code == 404
    assert live.http("admin").delete(f"/v1/interactions/{other}").status_code == 200
    for nothing in ("int_" + "0" * 32, "int_x", "chatcmpl-x"):
        assert live.http("admin").delete(f"/v1/interactions/{nothing}").status_code == 404


def test_one_choice_of_a_response_is_removed(live: Live) -> None:
    answer = live.answer(n=2)
    first, second = (one["interaction_id"] for one in answer["choices"])
    assert live.http().delete(f"/v1/interactions/{answer['id']}").status_code == 400
    assert live.http().delete(f"/v1/interactions/{answer['id']}", params={"choice": 1}).status_code == 200
    assert live.http().get(f"/v1/interactions/{first}").status_code == 200
    assert live.http().get(f"/v1/interactions/{second}").status_code == 404


def test_the_export_streams_what_the_listing_shows(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.api.admin.export.page", lambda *a, **n: page(*a, **n, limit=2))
    ids = [asked(live, user="exported") for _ in range(5)]
    live.http().post(f"/v1/interactions/{ids[1]}/grades", json={"value": 0.5, "comment": "two\nlines"})
    http = live.http("admin")
    got = http.get("/v1/admin/export", params={"user": "exported", "rollouts": True})
    assert got.headers["content-type"] == "application/x-ndjson"
    records = [json.loads(line) for line in got.text.splitlines()]
    assert [one["id"] for one in records] == ids
    assert records[1]["reward"] == 0.5
    assert records[1]["grades"][0]["comment"] == "two\nlines"
    assert records[0]["rollout"]["codec"] > 0
    listed = http.get("/v1/interactions", params={"user": "exported"}).json()["data"]
    assert {one["id"]: (one["prompt_text"], one["answer"]) for one in listed} == {
        one["id"]: (one["prompt"], one["answer"]) for one in records
    }
    rest = http.get("/v1/admin/export", params={"user": "exported", "after": ids[2]}).text.splitlines()
    assert [json.loads(line)["id"] for line in rest] == ids[3:]
    assert "rollout" not in json.loads(rest[0])
    assert http.get("/v1/admin/export", params={"after": "x"}).status_code == 400
    assert http.get("/v1/admin/export", params={"user": "nobody"}).text == ""


def test_grades_are_read_in_pages(live: Live) -> None:
    one = asked(live)
    url = f"/v1/interactions/{one}/grades"
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        live.http().post(url, json={"value": value})
    seen: list[float] = []
    after: dict[str, Any] = {}
    while True:
        part = live.http().get(url, params={"limit": 2, **after}).json()
        assert part["reward"]["value"] == 1.0
        seen += [grade["value"] for grade in part["data"]]
        assert part["has_more"] == (part["next_after"] is not None)
        if not part["has_more"]:
            break
        after = {"after": part["next_after"]}
    assert seen == [0.0, 0.25, 0.5, 0.75, 1.0]
    exact = live.http().get(url, params={"limit": 5}).json()
    assert (len(exact["data"]), exact["has_more"]) == (5, False)
    assert live.http().get(url, params={"limit": 1001}).status_code == 400
    assert live.http().get(url, params={"after": "x"}).status_code == 400


@pytest.fixture(scope="module")
def redacting(module_database_url: str, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with served(
        module_database_url, model_dir, tmp_path_factory.mktemp("var"), redact=HIDE, max_grade_text=20
    ) as server:
        yield server


def stored(live: Live, interaction: str) -> Interaction:
    with live.store.session() as session:
        return session.get_one(Interaction, interaction.removeprefix("int_"))


def message(words: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": words}]}


def test_texts_are_redacted_before_they_are_stored(redacting: Live) -> None:
    grader = {"type": "string_check", "operation": "eq", "reference": "sesame"}
    one = asked(redacting, **message("open sesame please"), metadata={"sesame": "a sesame"}, grader=grader, user="u")
    assert "sesame" not in everything(redacting)
    row = stored(redacting, one)
    assert "open [word] please" in row.prompt_text
    assert row.request["messages"][0]["content"] == "open [word] please"
    assert row.client_metadata == {"[word]": "a [word]"}
    assert row.grader is not None
    assert row.grader["reference"] == "[word]"
    assert (row.learnable, row.unlearnable_reason) == (False, "redacted")
    with redacting.store.session() as session:
        assert rollout(session, row.id) is None, "its token ids spell the text"


def test_names_of_sessions_are_redacted_and_stay_apart(redacting: Live) -> None:
    """A name may be a user's address; two users' turns must not become one session."""
    one = asked(redacting, **message("open"), session_id="sesame one sesame")
    asked(redacting, **message("open"), metadata={"session": "sesame one sesame"})
    asked(redacting, **message("open"), conversation="[word] one sesame")
    asked(redacting, **message("open"), session_id="plain")
    assert "sesame" not in everything(redacting)
    listed = redacting.http().get("/v1/sessions", params={"name": "sesame one sesame"}).json()["data"]
    assert [(row["turns"], row["name"].partition("#")[0]) for row in listed] == [(2, "[word] one [word]")]
    names = {row["name"] for row in redacting.http().get("/v1/sessions").json()["data"]}
    assert len(names) == 3
    assert "plain" in names
    shown = redacting.http().get(f"/v1/sessions/{listed[0]['name'].replace('#', '%23')}").json()
    assert shown["data"][0]["answers"][0]["interaction_id"] == one, "the stored name means it too"
    graded = redacting.http().post("/v1/sessions/sesame one sesame/grades", json={"value": 1})
    assert graded.status_code == 201, graded.text
    assert redacting.http().delete("/v1/sessions/sesame one sesame").status_code == 200
    assert redacting.http().get("/v1/sessions", params={"name": "sesame one sesame"}).json()["data"] == []


def test_what_holds_nothing_to_redact_keeps_its_rollout(redacting: Live) -> None:
    row = stored(redacting, asked(redacting, **message("open please")))
    assert row.learnable
    with redacting.store.session() as session:
        assert rollout(session, row.id) is not None


def test_a_prompt_of_token_ids_is_redacted_too(redacting: Live) -> None:
    ids = redacting.http().post("/tokenize", json={"prompt": "open sesame"}).json()["tokens"]
    body = {"model": "lepo", "prompt": [ids, [5, 6, 7]], "max_tokens": 3}
    got = redacting.http().post("/v1/completions", json=body).json()
    row = stored(redacting, got["choices"][0]["interaction_id"])
    assert "sesame" not in everything(redacting)
    assert json.dumps(ids)[1:-1] not in json.dumps(row.request)
    assert not row.learnable


def test_grades_texts_are_redacted(redacting: Live) -> None:
    one = asked(redacting)
    posted = redacting.http().post(
        f"/v1/interactions/{one}/grades",
        json={"value": 1, "comment": "sesame!", "correction": "say sesame"},
        headers={"Idempotency-Key": "redacted"},
    )
    assert (posted.json()["comment"], posted.json()["correction"]) == ("[word]!", "say [word]")
    assert "sesame" not in everything(redacting)


@pytest.mark.parametrize("words", ["trouble 4711", "numb 4711"])
def test_what_cannot_be_redacted_is_a_503_and_is_not_stored(redacting: Live, words: str) -> None:
    failed = redacting.chat(**message(words), max_tokens=3)
    assert (failed.status_code, failed.json()["error"]["code"]) == (503, "redaction_failed")
    with redacting.http().stream(
        "POST", "/v1/chat/completions", json={"model": "lepo", "stream": True, **message(words)}
    ) as s:
        assert "redaction_failed" in "".join(sse(s))
    one = asked(redacting)
    graded = redacting.http().post(f"/v1/interactions/{one}/grades", json={"value": 1, "comment": words})
    assert (graded.status_code, graded.json()["error"]["code"]) == (503, "redaction_failed")
    assert "4711" not in everything(redacting)


def test_redacted_answers_can_be_learned_from_where_a_setting_says_so(
    module_database_url: str, model_dir: Path, tmp_path: Path
) -> None:
    with served(module_database_url, model_dir, tmp_path, redact=HIDE, redact_keep_rollouts=True) as keeping:
        row = stored(keeping, asked(keeping, **message("open sesame")))
        assert row.learnable
        assert "sesame" not in row.prompt_text
        with keeping.store.session() as session:
            assert rollout(session, row.id) is not None


def test_a_server_whose_hook_cannot_be_loaded_does_not_start(
    database_url: str, model_dir: Path, tmp_path: Path
) -> None:

    env = {**os.environ, "LEPO_DATABASE_URL": database_url, "LEPO_MODEL": str(model_dir), "LEPO_VAR_DIR": str(tmp_path)}
    env |= {"LEPO_REDACT": "no.such:thing", "LEPO_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "serve"], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode != 0
    assert "LEPO_REDACT=no.such:thing cannot be imported" in done.stderr


def test_a_grades_texts_are_bounded_by_a_setting(redacting: Live, live: Live) -> None:
    assert GradeBody(value=1, comment="a" * 10**6).comment is not None, "the schema has no bound of its own"
    url = f"/v1/interactions/{asked(redacting)}/grades"
    for field in ("comment", "correction"):
        assert redacting.http().post(url, json={"value": 1, field: "a" * 20}).status_code == 201
        refused = redacting.http().post(url, json={"value": 1, field: "a" * 21})
        assert (refused.status_code, refused.json()["error"]["param"]) == (413, field)
    default = f"/v1/interactions/{asked(live)}/grades"
    assert live.http().post(default, json={"value": 1, "comment": "a" * 16_384}).status_code == 201
    assert live.http().post(default, json={"value": 1, "comment": "a" * 16_385}).status_code == 413
