"""Held-out sets over HTTP: what is taken, what is refused by its line, who may, and what is written down."""

import hashlib
import json
from typing import Any

import httpx
import pytest

from app.store import held_out, projects
from app.store.keys import create_key
from tests.app.api.contract import require_described
from tests.app.api.live import CONTEXT, Live, wait_for

PATH = "/v1/admin/held-out"
GRADER = {"type": "string_check", "operation": "eq", "reference": "5"}
ONE = json.dumps({"prompt": "What is 2 + 3", "grader": GRADER})
TALK = json.dumps({"messages": [{"role": "user", "content": "2 + 3"}], "grader": GRADER})


def upload(live: Live, lines: str | bytes, **params: Any) -> httpx.Response:
    answer = live.http("admin").post(PATH, content=lines, params=params)
    require_described(answer)
    return answer


def get(live: Live, path: str = "", **params: Any) -> Any:
    answer = live.http("admin").get(PATH + path, params=params)
    require_described(answer)
    assert answer.status_code == 200, answer.text
    return answer.json()


def active(live: Live) -> int:
    with live.store.session() as session:
        return held_out.active_version(session)


def test_a_set_is_kept_listed_read_and_asked(live: Live) -> None:
    lines = f"{ONE}\n\n{TALK}\r\n"
    made = upload(live, lines)
    assert made.status_code == 201
    first = made.json()
    assert (first["prompts"], first["active"], first["created_by"]) == (2, True, live.keys["admin"].split("-")[1])
    assert first["digest"] == hashlib.sha256(lines.encode()).hexdigest()
    later = upload(live, ONE, activate=False).json()
    assert (later["version"], later["active"], later["activated_at"]) == (first["version"] + 1, False, None)
    assert [one["version"] for one in get(live)["data"]][:2] == [later["version"], first["version"]]
    page = get(live, limit=1)
    assert page["next_after"] == str(later["version"])
    assert get(live, limit=1, after=page["next_after"])["data"][0] == first
    whole = get(live, f"/{first['version']}")
    assert (whole["lines"], whole["asked"], whole["sealed"]) == (lines, 2, 0)
    assert active(live) == first["version"]


def test_as_much_is_sealed_as_the_settings_say(live: Live) -> None:
    lines = [json.dumps({"prompt": f"{index} + 1", "grader": GRADER}) for index in range(60)]
    whole = get(live, f"/{upload(live, chr(10).join([*lines, lines[0]])).json()['version']}")
    assert whole["prompts"] == 61
    assert whole["asked"] + whole["sealed"] == 60, "what stands there twice counts once"
    assert 2 <= whole["sealed"] <= 25


def test_another_version_is_activated_and_none(live: Live) -> None:
    versions = [upload(live, ONE).json()["version"] for _ in range(2)]
    for version, changed in ((versions[0], True), (versions[0], False), (0, True), (0, False)):
        answer = live.http("admin").post(f"{PATH}/{version}/activate")
        require_described(answer)
        assert answer.json() == {"object": "held_out.active", "version": version, "changed": changed}
        assert active(live) == version
    missing = live.http("admin").post(f"{PATH}/{versions[1] + 1}/activate")
    require_described(missing)
    assert missing.status_code == 404
    assert active(live) == 0


LONG = json.dumps({"prompt": "one and " * CONTEXT, "grader": GRADER})
ROLE = json.dumps({"messages": [{"role": "judge", "content": "2 + 3"}], "grader": GRADER})


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (f"{ONE}\n\nnot json\n", "line 3 is not a prompt"),
        (f"{ONE}\n" + json.dumps({"prompt": "2 + 3"}), "line 2 is not a prompt (or messages) with a grader: it has no"),
        (json.dumps({"prompt": "2", "grader": {"type": "oracle"}}), "grader.type"),
        (json.dumps({"prompt": "", "grader": GRADER}), "line 1 asks nothing"),
        (json.dumps({"prompt": 5, "grader": GRADER}), "line 1 is not a prompt"),
        (json.dumps({"messages": [{"role": "user"}], "grader": GRADER}), "line 1 is not a prompt"),
        (json.dumps({"prompt": "\ud800", "grader": GRADER}), "line 1 is not a prompt"),
        ("[" * 100_000, "line 1 is not a prompt"),
        (f"{ONE}\n{ROLE}", "line 2 cannot be asked: messages[0].role"),
        (f"{ONE}\n{LONG}", "line 2: the held-out prompt"),
        (f"{ONE}\n".encode() + b"\xff", "Line 2 is not UTF-8"),
        ("\n \n", "1 to 10000 prompts"),
        ("\n".join(["x"] * 9), "line 5 is not a prompt (or messages) with a grader: Expecting"),
    ],
)
def test_what_the_gate_could_not_ask_is_refused_by_its_line(live: Live, lines: str | bytes, words: str) -> None:
    before = active(live), len(get(live)["data"])
    answer = upload(live, lines)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_held_out")
    assert words in answer.json()["error"]["message"]
    assert (active(live), len(get(live)["data"])) == before


def test_wrong_lines_are_told_together_but_not_all(live: Live) -> None:
    said = upload(live, "\n".join([ONE, *["x"] * 9])).json()["error"]["message"]
    assert "line 2 " in said
    assert "line 6 " in said
    assert "line 7 " not in said
    assert said.endswith("and 4 more.")


def test_more_than_a_body_may_hold_is_refused(live: Live) -> None:
    assert upload(live, f"{ONE}\n" * (live.settings.max_body_bytes // len(ONE))).status_code == 413


def test_the_same_upload_sent_twice_is_one_version(live: Live) -> None:
    headers = {"Idempotency-Key": "held-out-once"}
    one, two = (live.http("admin").post(PATH, content=ONE, headers=headers).json() for _ in range(2))
    assert one == two
    other = live.http("admin").post(PATH, content=TALK, headers=headers)
    require_described(other)
    assert other.status_code == 422


def test_an_upload_is_written_down(live: Live) -> None:
    made = upload(live, ONE).json()
    upload(live, "not json")

    def written() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = live.http("admin").get("/v1/admin/audit", params={"limit": 2}).json()["data"]
        return found

    wait_for(lambda: written()[0]["outcome"] is not None)  # after its response has left
    entries = written()
    assert [(one["action"], one["outcome"], one["target"]) for one in entries] == [
        (f"POST {PATH}", "400", None),
        (f"POST {PATH}", "201", f"version {made['version']}"),
    ]
    assert entries[1]["actor"] == made["created_by"]


def test_only_who_rules_the_service_may(live: Live) -> None:
    with live.store.session() as session:
        projects.create_project(session, "shop")
        key = create_key(session, "shop's", ["admin"], project="shop")[1]
    for method, path in (("POST", PATH), ("GET", PATH), ("GET", f"{PATH}/1"), ("POST", f"{PATH}/0/activate")):
        answer = httpx.request(method, live.url + path, headers={"Authorization": f"Bearer {key}"}, content=ONE)
        assert answer.status_code == 403, path
