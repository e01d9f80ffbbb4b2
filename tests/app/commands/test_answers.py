"""`lepo grades`, `sessions`, `data`, `top` over HTTP: what they print, and what they changed."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from app.data_files import read_lines, unflat
from tests.app.api.live import Live, new_checkpoint
from tests.app.commands.conftest import Read, Said


def asked(live: Live, **fields: object) -> str:
    answer: str = live.answer(**fields)["choices"][0]["interaction_id"]
    return answer


def test_an_answer_is_graded_corrected_and_the_grade_taken_back(live: Live, said: Said, read: Read) -> None:
    one = asked(live, user="graded")
    assert said("grades", "add", one, "1", "--comment", "right", "--grader", "eve")[1] == (
        f"Graded: {one} is worth 1.000.\n"
    )
    assert read("grades", "add", one, "0", "--grader", "bob", key="grade")["reward"] == {"value": 0.5, "graders": 2}
    assert said("grades", "add", one, "--correction", "5")[1].startswith("Corrected: ")
    found = read("grades", "show", one)
    assert [(row["state"], row["value"], row["correction"]) for row in found["data"]] == [
        ("graded", 1.0, None),
        ("graded", 0.0, None),
        ("corrected", None, "5"),
    ]
    shown = said("grades", "show", one)[1]
    assert "/eve" in shown
    assert shown.endswith("They come to 0.500.\n")
    assert [row["interaction_id"] for row in read("grades", "list", "--user", "graded")] == [one]
    assert one in said("grades", "list")[1]
    assert said("grades", "retract", one, "--grader", "bob", key="grade")[1] == (f"Retracted: {one} is worth 1.000.\n")
    assert read("grades", "retract", one, "--grader", "eve")["reward"] is None
    assert "lepo grades add" in said("grades", "show", asked(live))[1]
    token = said("grades", "token", one, "--seconds", "60")[1].strip()
    assert (
        live.http(None)
        .post(f"/v1/interactions/{one}/grades", json={"value": 1}, headers={"Authorization": f"Bearer {token}"})
        .is_success
    )


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("add", "int_" + "0" * 32, "1"), 1, "Error: There is no"),
        (("add", "int_" + "0" * 32, "2"), 2, "0<=x<=1"),
        (("add", "int_" + "0" * 32), 2, "--correction"),
    ],
    ids=str,
)
def test_grades_that_cannot_be(said: Said, arguments: tuple[str, ...], status: int, words: str) -> None:
    code, output = said("grades", *arguments)
    assert code == status
    assert words in output


def test_a_session_is_shown_graded_and_removed(live: Live, said: Said, read: Read) -> None:
    for _ in range(2):
        assert live.chat("admin", session_id="walk", max_tokens=4).status_code == 200
    assert [row["name"] for row in read("sessions", "list", "--name", "walk")] == ["walk"]
    session = read("sessions", "show", "walk")
    assert said("sessions", "grade", "walk", "0.5", "--credit", "last_turn")[1] == (
        f"Graded: {session['id']} with 0.5, credit last_turn.\n"
    )
    assert read("sessions", "grade", "walk", "1", "--credit", "discounted", "--discount", "0.5")["value"] == 1
    shown = said("sessions", "show", session["id"])[1]
    assert "graded as a whole: 1.0" in shown
    assert all(one["interaction_id"] in shown for turn in session["data"] for one in turn["answers"])
    assert said("sessions", "grade", "walk", "1", "--credit", "discounted")[0] == 1, "without a discount"
    removed = read("sessions", "delete", "walk")
    assert (removed["finished"], removed["removed"]["interactions"]) == (True, len(session["data"]))
    assert said("sessions", "show", "walk")[0] == 1
    assert "X-Session-Id" in said("sessions", "list", "--name", "walk")[1]


def test_answers_are_listed_exported_and_removed(live: Live, said: Said, read: Read, tmp_path: Path) -> None:
    ids = [asked(live, user="ada", messages=[{"role": "user", "content": f"2 \u2028 + {n}"}]) for n in range(3)]
    assert said("grades", "add", ids[0], "1")[0] == 0
    assert [row["id"] for row in read("data", "list", "--user", "ada")] == ids[::-1]
    assert [row["id"] for row in read("data", "list", "--user", "ada", "--limit", "2")] == ids[:0:-1]
    assert [row["id"] for row in read("data", "list", "--user", "ada", "--ungraded")] == ids[:0:-1]
    assert ids[2] in said("data", "list", "--since", "2020-01-01")[1]
    assert said("data", "list", "--until", "2020-01-01")[1] == "No answer fits.\n"
    assert read("data", "show", ids[0])["reward"] == {"value": 1.0, "graders": 1}
    assert "prompt\n" in said("data", "show", ids[0])[1]

    out = tmp_path / "a.jsonl"
    code, output = said("data", "export", "--out", str(out), "--user", "ada", "--with-rollouts")
    assert (code, output) == (0, f"3 answers in {out}; go on with --after {ids[2]}\n")
    lines = read_lines(out)
    assert [one["id"] for one in lines] == ids
    assert "\u2028" in lines[0]["prompt"]
    assert all(one["rollout"]["payload"] for one in lines)
    said("data", "export", "--out", str(tmp_path / "b.jsonl"), "--user", "ada", "--after", ids[0])
    assert [one["id"] for one in read_lines(tmp_path / "b.jsonl")] == ids[1:]
    (tmp_path / "c.jsonl.partial").write_bytes(out.read_bytes()[:-20])
    resumed = read("data", "export", "--out", str(tmp_path / "c.jsonl"), "--user", "ada", "--with-rollouts", "--resume")
    assert (resumed["answers"], resumed["last"]) == (1, ids[2])
    assert (tmp_path / "c.jsonl").read_bytes() == out.read_bytes()
    parquet = tmp_path / "a.parquet"
    said("data", "export", "--format", "parquet", "--out", str(parquet), "--user", "ada", "--with-rollouts")
    assert [unflat(row) for row in pq.read_table(parquet).to_pylist()] == lines
    code, output = said("data", "export", "--out", str(tmp_path / "no" / "a.jsonl"))
    assert code == 1
    assert "cannot be written" in output
    assert said("data", "export", "--out", str(out), "--after", "it")[0] == 1

    assert read("data", "delete", "--answer", ids[0])["removed"]["interactions"] == 1
    code, output = said("data", "delete", "--user", "ada")
    assert code == 0
    assert "2 interactions" in output
    assert read("data", "list", "--user", "ada") == []
    assert said("data", "delete", "--user", "nobody")[1] == "Nothing was there to remove.\n"
    assert said("data", "delete")[0] == 2
    assert said("data", "delete", "--answer", ids[0], "--of-key", "k")[0] == 2


def test_the_screen_shows_what_is_so(live: Live, said: Said, read: Read) -> None:
    version = new_checkpoint(live, seed=9)
    job = read("jobs", "start")
    code, shown = said("top", "--once")
    assert code == 0
    words = " ".join(shown.replace("│", " ").split())
    assert f"undecided: {version} candidate" in words
    assert "waits for a decision" in words
    assert f"of {live.settings.slots} slots busy, 0 waiting" in words
    assert "queued" in words
    facts = read("top")
    assert facts["overview"]["undecided"] == {str(version): "candidate"}
    assert (facts["metrics"]["slots"], facts["jobs"][0]["id"]) == (live.settings.slots, job["id"])
    assert said("top")[1].count("slots busy") == 1, "no terminal: it is printed once"
    code, output = said("top", "--once", key="both")
    assert code == 1
    assert "admin" in output
