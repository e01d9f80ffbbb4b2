"""`lepo jobs`, `keys`, `projects` over HTTP: what they print, and what they changed."""

import json

import pytest

from app.store.trust import set_trust
from tests.app.api.live import Live
from tests.app.commands.conftest import Read, Said
from tests.app.test_cli import lepo


def test_a_job_is_asked_for_followed_cancelled_and_asked_for_again(said: Said, read: Read) -> None:
    made = read("jobs", "start", "--set", "learning_rate=1e-5", "--set", "baseline=batch")
    assert made["config"] == {"learning_rate": 1e-5, "baseline": "batch"}
    code, output = said("jobs", "retry", made["id"])
    assert code == 1
    assert f"lepo jobs cancel {made['id']}" in output
    assert f"{made['id']} is cancelled" in said("jobs", "cancel", made["id"])[1]
    code, output = said("jobs", "events", made["id"], "--follow")
    assert code == 0
    assert "cancel" in output
    lines = said("jobs", "events", made["id"], "--json")[1].splitlines()
    assert [json.loads(line)["message"] for line in lines] == [line[10:] for line in output.splitlines()]
    again = read("jobs", "retry", made["id"])
    assert (again["config"], again["status"], again["id"] != made["id"]) == (made["config"], "queued", True)
    assert again["id"] in said("jobs", "list", "--status", "queued")[1]
    assert read("jobs", "show", again["id"])["status"] == "queued"
    assert "learning_rate 0.000" in said("jobs", "show", again["id"])[1]
    assert said("jobs", "cancel", again["id"])[0] == 0
    assert read("jobs", "list", "--status", "queued") == []
    assert "lepo jobs start" in said("jobs", "list", "--status", "queued")[1]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("start", "--set", "slots=3"), 1, "a job cannot set slots"),
        (("start", "--set", "learning_rate"), 2, "NAME=VALUE"),
        (("cancel", "job_" + "0" * 32), 1, "There is no job"),
        (("events", "job_" + "0" * 32), 1, "There is no job"),
        (("show", "it"), 1, "it"),
    ],
    ids=str,
)
def test_jobs_that_cannot_be(said: Said, arguments: tuple[str, ...], status: int, words: str) -> None:
    code, output = said("jobs", *arguments)
    assert code == status
    assert words in output


def test_keys_from_birth_to_end(live: Live, said: Said, read: Read) -> None:
    code, text = said("keys", "create", "phone", "--scope", "infer", "--days", "3")
    assert code == 0
    public = text.split("-")[1]
    assert lepo("data", "list", LEPO_URL=live.url, LEPO_API_KEY=text.strip())[0] == 0
    [row] = [line for line in said("keys", "list")[1].splitlines() if line.startswith(public)]
    assert row.split() == [public, "default", "infer", "open", "ordinary", "phone"]
    assert said("keys", "trust", public, "quarantined", "--reason", "lies") == (
        0,
        f"Key {public} (phone) is quarantined: lies.\n",
    )
    assert said("keys", "limit", public, "--max-choices", "2")[1] == f"Key {public} (phone): max_choices 2.\n"
    [key] = [one for one in read("keys", "list") if one["id"] == public]
    assert (key["trust"], key["limits"]["max_choices"], key["limits"]["tokens_per_minute"]) == ("quarantined", 2, None)
    assert said("keys", "limit", public)[0] == 2
    assert said("keys", "revoke", public) == (0, f"Key {public} (phone) is revoked.\n")
    assert "revoked" in said("keys", "list")[1]
    code, output = lepo("data", "list", LEPO_URL=live.url, LEPO_API_KEY=text.strip())
    assert code == 1
    assert "was revoked" in output
    assert said("keys", "create", "LEPO_ADMIN_KEY")[0] == 1, "a reserved name"
    code, output = said("keys", "revoke", "nobody")
    assert code == 1
    assert "lepo keys list" in output
    made = read("keys", "create", "ruler", "--scope", "admin")
    assert (made["name"], made["key"].split("-")[1]) == ("ruler", made["id"])


def test_agreement(live: Live, said: Said, read: Read) -> None:
    assert "trust one" in said("keys", "agreement")[1]
    answer = live.answer()["choices"][0]["interaction_id"]
    for key, value in (("both", 1), ("admin", 0)):
        live.http(key).post(f"/v1/interactions/{answer}/grades", json={"value": value})
    with live.store.session() as session:
        set_trust(session, live.keys["both"].split("-")[1], "trusted", "test", "knows")
    [row] = read("keys", "agreement")
    assert (row["key_id"], row["disagreeing"], row["answers"]) == (live.keys["admin"].split("-")[1], 1.0, 1)
    assert said("keys", "agreement")[1].splitlines()[1].split() == [row["key_id"], "ordinary", "100%", "1", "1.000"]


def test_projects(said: Said, read: Read) -> None:
    assert "lepo keys create KEY --project team-a" in said("projects", "create", "team-a", "--stored-bytes", "9")[1]
    assert said("projects", "limit", "team-a", "--grading-seconds", "1.5")[1] == "Project team-a: grading_seconds 1.5\n"
    [project] = [one for one in read("projects", "list") if one["id"] == "team-a"]
    assert (project["limits"]["stored_bytes"], project["limits"]["grading_seconds"]) == (9, 1.5)
    assert "stored_bytes 9, grading_seconds 1.5" in " ".join(said("projects", "list")[1].split())
    code, text = said("keys", "create", "ours", "--project", "team-a")
    assert code == 0
    [row] = [line for line in said("keys", "list")[1].splitlines() if text.split("-")[1] in line]
    assert row.split()[1] == "team-a"
    code, output = said("projects", "create", "Team A")
    assert code == 1
    code, output = said("keys", "create", "theirs", "--project", "team-b")
    assert code == 1
    assert "lepo projects list" in output
