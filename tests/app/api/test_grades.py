"""Grades over HTTP: appended, idempotent, attributable, possible at once after the answer and at any time later."""

import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.app.api.live import Live, served, sse


def grade(
    live: Live, target: str, key: str = "both", headers: dict[str, str] | None = None, **body: Any
) -> httpx.Response:
    return live.http(key).post(f"/v1/interactions/{target}/grades", json=body, headers=headers)


def interaction(live: Live) -> str:
    found: str = live.answer()["choices"][0]["interaction_id"]
    return found


def ledger(live: Live, target: str) -> dict[str, Any]:
    found: dict[str, Any] = live.http().get(f"/v1/interactions/{target}/grades").json()
    return found


def counted(live: Live) -> float:
    """Grades of kinds that callers made up, as /metrics counts them."""
    lines = live.http(None).get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith('lepo:grades_total{kind="other"}'))


def test_an_answer_is_graded_by_either_id(live: Live) -> None:
    body = live.answer()
    own = body["choices"][0]["interaction_id"]
    by_own, by_response = grade(live, own, value=1), grade(live, body["id"], value=0.25)
    assert (by_own.status_code, by_response.status_code) == (201, 201)
    assert by_response.json()["interaction_id"] == own
    assert by_response.json()["supersedes"] == by_own.json()["id"]
    assert by_response.json()["reward"] == {"value": 0.25, "graders": 1}


def test_a_response_of_several_choices_is_graded_choice_by_choice(live: Live) -> None:
    body = live.answer(n=2)
    unnamed = grade(live, body["id"], value=1)
    assert (unnamed.status_code, unnamed.json()["error"]["param"]) == (400, "choice")
    named = grade(live, body["id"], value=1, choice=1)
    assert named.json()["interaction_id"] == body["choices"][1]["interaction_id"]
    assert grade(live, body["id"], value=1, choice=2).status_code == 404


def test_an_id_that_streams_first_can_be_graded_when_the_answer_is_there(live: Live) -> None:
    """The response's id leaves with the first chunk; until the answer is stored a grade gets 409, then 201."""
    asked = {"model": "lepo", "messages": [{"role": "user", "content": "2"}], "stream": True}
    more = {"max_tokens": 200, "ignore_eos": True}
    with live.http().stream("POST", "/v1/chat/completions", json={**asked, **more}) as response:
        lines = response.iter_lines()
        completion_id = next(lines).split('"id":"')[1].split('"')[0]
        early = grade(live, completion_id, value=1)
        assert (early.status_code, early.json()["error"]["code"]) == (409, "not_finished")
        assert early.headers["retry-after"] == "1"
        final = [line for line in lines if "interaction_id" in line]
    assert len(final) == 1
    assert grade(live, completion_id, value=1).status_code == 201


def test_true_and_false_are_one_and_zero(live: Live) -> None:
    target = interaction(live)
    assert grade(live, target, value=True).json()["value"] == 1.0
    assert grade(live, target, value=False).json()["reward"]["value"] == 0.0


def test_the_same_key_and_body_get_the_same_answer(live: Live) -> None:
    target, headers, before = interaction(live), {"Idempotency-Key": "once"}, counted(live)
    first = grade(live, target, headers=headers, value=1, grader={"kind": "once"})
    again = grade(live, target, headers=headers, value=1, grader={"kind": "once"})
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert len(ledger(live, target)["data"]) == 1
    assert counted(live) == before + 1
    other = grade(live, target, headers=headers, value=0)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")


def test_a_key_stands_for_one_query_string_too(live: Live) -> None:
    target, headers = interaction(live), {"Idempotency-Key": "take-back"}
    for name in ("ada", "bob"):
        grade(live, target, value=1, grader={"kind": "user", "id": name})
    path = f"/v1/interactions/{target}/grades"
    first = live.http().delete(path, params={"kind": "user", "id": "ada"}, headers=headers)
    assert first.status_code == 200
    other = live.http().delete(path, params={"kind": "user", "id": "bob"}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    again = live.http().delete(path, params={"kind": "user", "id": "ada"}, headers=headers)
    assert (again.status_code, again.json()) == (200, first.json())
    assert live.http().delete(path, params={"kind": "user", "id": "bob"}).status_code == 200
    assert ledger(live, target)["reward"] is None


def test_many_at_once_with_one_key_are_one_grade(live: Live) -> None:
    target, headers = interaction(live), {"Idempotency-Key": "race"}
    answers: list[httpx.Response] = []
    threads = [
        threading.Thread(target=lambda: answers.append(grade(live, target, headers=headers, value=1))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 201}) == 1
    assert len(ledger(live, target)["data"]) == 1


def test_keys_of_two_callers_never_meet(live: Live) -> None:
    target, headers = interaction(live), {"Idempotency-Key": "shared"}
    first = grade(live, target, "grade", headers, value=1)
    second = grade(live, target, "both", headers, value=0)
    assert (first.status_code, second.status_code) == (201, 201)
    assert ledger(live, target)["reward"] == {"value": 0.5, "graders": 2}


def test_no_caller_can_speak_for_anothers_grader(live: Live) -> None:
    target, rubric = interaction(live), {"kind": "client", "id": "rubric"}
    grade(live, target, "grade", value=1, grader=rubric)
    assert grade(live, target, "both", value=0, grader=rubric).json()["supersedes"] is None
    assert ledger(live, target)["reward"]["graders"] == 2
    for kind in ("math", "countdown", "path"):
        claimed = grade(live, target, value=1, grader={"kind": kind})
        assert (claimed.status_code, claimed.json()["error"]["param"]) == (400, "grader.kind")


def test_a_grade_is_taken_back_by_an_entry(live: Live) -> None:
    target = interaction(live)
    grade(live, target, value=1, comment="right", correction="5")
    gone = live.http().delete(f"/v1/interactions/{target}/grades")
    assert (gone.status_code, gone.json()["state"], gone.json()["reward"]) == (200, "retracted", None)
    found = ledger(live, target)
    assert [entry["state"] for entry in found["data"]] == ["graded", "retracted"]
    assert (found["data"][0]["comment"], found["data"][0]["correction"]) == ("right", "5")
    assert live.http().delete(f"/v1/interactions/{target}/grades").status_code == 404


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"value": 1.5}, "value"),
        ({"value": -0.1}, "value"),
        ({"value": "1"}, "value"),
        ({}, "value"),
        ({"value": 1, "grade": 1}, "grade"),
        ({"value": 1, "comment": "a\x00"}, "comment"),
        ({"value": 1, "grader": {"kind": "Client"}}, "grader.kind"),
    ],
    ids=str,
)
def test_a_bad_grade_is_told_what_is_wrong(live: Live, body: dict[str, Any], param: str) -> None:
    response = grade(live, interaction(live), **body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("target", ["int_" + "0" * 32, "int_x", "chatcmpl-" + "0" * 32, "nothing"])
def test_an_answer_that_is_not_there_cannot_be_graded(live: Live, target: str) -> None:
    assert grade(live, target, value=1).status_code == 404


def test_a_token_grades_one_answer_and_nothing_else(live: Live) -> None:
    target, other = interaction(live), interaction(live)
    made = live.http().post(f"/v1/interactions/{target}/grading_tokens", json={"expires_in": 60})
    assert made.status_code == 201
    browser = {"Authorization": f"Bearer {made.json()['token']}"}
    url = f"{live.url}/v1/interactions"
    given = httpx.post(f"{url}/{target}/grades", json={"value": 1}, headers=browser)
    assert (given.status_code, given.json()["grader"]["kind"]) == (201, "user")
    assert httpx.post(f"{url}/{other}/grades", json={"value": 1}, headers=browser).status_code == 404, (
        "not even that it exists"
    )
    assert httpx.get(f"{url}/{target}", headers=browser).status_code == 403
    again = httpx.post(f"{url}/{target}/grading_tokens", json={}, headers=browser)
    assert again.status_code == 403
    forged = {"Authorization": f"Bearer {made.json()['token'][:-1]}x"}
    assert httpx.post(f"{url}/{target}/grades", json={"value": 1}, headers=forged).status_code == 401


def test_a_service_may_let_keys_grade_their_own_answers_only(
    database_url: str, model_dir: Path, tmp_path: Path
) -> None:
    with served(database_url, model_dir, tmp_path / "var", grade_others=False) as closed:
        own = interaction(closed)
        tokens = f"/v1/interactions/{own}/grading_tokens"
        assert grade(closed, own, "grade", value=1).status_code == 404
        assert closed.http("grade").post(tokens, json={}).status_code == 404
        assert closed.http("grade").get(f"/v1/interactions/{own}/grades").status_code == 404
        assert closed.http("grade").delete(f"/v1/interactions/{own}/grades").status_code == 404
        assert grade(closed, own, "both", value=0).json()["reward"] == {"value": 0.0, "graders": 1}
        assert grade(closed, own, "admin", value=1).json()["reward"] == {"value": 0.5, "graders": 2}
        token = closed.http("both").post(tokens, json={}).json()["token"]
        browser = {"Authorization": f"Bearer {token}"}
        url = f"{closed.url}/v1/interactions/{own}/grades"
        assert httpx.post(url, json={"value": 1}, headers=browser).status_code == 201


def test_a_token_expires(live: Live) -> None:
    target = interaction(live)
    token = live.http().post(f"/v1/interactions/{target}/grading_tokens", json={"expires_in": 1}).json()["token"]
    time.sleep(1.1)
    headers = {"Authorization": f"Bearer {token}"}
    late = httpx.post(f"{live.url}/v1/interactions/{target}/grades", json={"value": 1}, headers=headers)
    assert (late.status_code, late.json()["error"]["code"]) == (401, "expired_grading_token")


def test_graders_can_be_tried_out(live: Live) -> None:
    spec = {"type": "string_check", "operation": "eq", "reference": "5"}
    named = live.http().post("/v1/graders/validate", json={"grader": spec}).json()
    assert (named["valid"], named["grader"]["kind"]) == (True, "string_check")

    def verdict(answer: str, grader: dict[str, Any]) -> tuple[str, float | None]:
        found = live.http().post("/v1/graders/run", json={"grader": grader, "answer": answer}).json()
        return found["state"], found["value"]

    assert verdict("5", spec) == ("graded", 1.0)
    assert verdict("6", spec) == ("graded", 0.0)
    assert verdict("$\\frac{2}{4}$", {"type": "math", "reference": "1/2"}) == ("graded", 1.0)
    bad = live.http().post("/v1/graders/validate", json={"grader": {**spec, "operation": "near"}})
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "grader.operation")
    unread = live.http().post("/v1/graders/validate", json={"grader": {"type": "math", "reference": "\\frac{"}})
    assert (unread.status_code, unread.json()["error"]["param"]) == (400, "grader")


def test_a_problem_of_reasoning_gym_can_be_named(live: Live) -> None:
    spec = {"type": "reasoning_gym", "dataset": "chain_sum", "seed": 42, "index": 7, "config": {"max_terms": 3}}
    named = live.http().post("/v1/graders/validate", json={"grader": spec}).json()
    assert (named["valid"], named["grader"]["kind"]) == (True, "reasoning_gym")
    ran = live.http().post("/v1/graders/run", json={"grader": spec, "answer": "I do not know"}).json()
    assert (ran["state"], ran["value"]) == ("graded", 0.0)
    for wrong, word in (({"dataset": "chain_sun"}, "choose one of"), ({"config": {"terms": 1}}, "choose from")):
        refused = live.http().post("/v1/graders/validate", json={"grader": {**spec, **wrong}})
        assert refused.status_code == 400
        assert word in refused.json()["error"]["message"]
    assert live.answer(grader=spec)["choices"][0]["interaction_id"]


def test_answers_are_read_back_by_those_who_asked(live: Live) -> None:
    target = interaction(live)
    grade(live, target, value=1)
    mine = live.http().get(f"/v1/interactions/{target}").json()
    assert (mine["id"], mine["reward"]["value"]) == (target, 1.0)
    assert live.http("infer").get(f"/v1/interactions/{target}").status_code == 404
    traced = live.http("admin").get(f"/v1/interactions/{target}", params={"include": "rollout"}).json()["rollout"]
    assert len(traced["latents"]) == 3
    assert all(sum(step["weights"]) == pytest.approx(1, abs=1e-5) for step in traced["latents"])
    assert live.http().get(f"/v1/interactions/{target}", params={"include": "rollout"}).status_code == 403


def test_a_listing_continues_where_it_ended(live: Live) -> None:
    for _ in range(3):
        live.answer(user="lister")
    seen: list[str] = []
    after: str | None = None
    for _ in range(3):
        page = live.http().get(
            "/v1/interactions", params={"limit": 2, "user": "lister", **({"after": after} if after else {})}
        )
        seen += [row["id"] for row in page.json()["data"]]
        after = page.json()["next_after"]
        if after is None:
            break
    assert len(seen) == len(set(seen)) == 3
    assert seen == sorted(seen, reverse=True)
    assert live.http().get("/v1/interactions", params={"after": "int_x"}).status_code == 400


def test_events_of_a_stream_carry_ids_only_once_stored(live: Live) -> None:
    asked = {"model": "lepo", "messages": [{"role": "user", "content": "2"}], "stream": True, "n": 3, "max_tokens": 5}
    with live.http().stream("POST", "/v1/chat/completions", json=asked) as response:
        ids = [part.split('"')[0] for event in sse(response) for part in event.split('"interaction_id":"')[1:]]
    assert len(set(ids)) == 3
    assert all(grade(live, one, value=1).status_code == 201 for one in ids)


def test_an_idempotency_key_covers_the_query_too(live: Live) -> None:
    """Two choices named in the query are two deletions, even under one key sent by mistake: the second is refused."""
    first, second = (interaction(live) for _ in range(2))
    for target in (first, second):
        for name in ("x", "y"):
            assert grade(live, target, value=1, grader={"id": name}).status_code == 201
    headers = {"Idempotency-Key": "taken-back"}
    path = f"/v1/interactions/{first}/grades"
    gone = live.http().delete(path, params={"id": "x"}, headers=headers)
    assert gone.status_code == 200
    assert live.http().delete(path, params={"id": "x"}, headers=headers).json() == gone.json()
    other = live.http().delete(path, params={"id": "y"}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert live.http().get(path).json()["reward"] == {"value": 1.0, "graders": 1}
