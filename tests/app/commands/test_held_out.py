"""`lepo data held-out`: what it prints, and what the gate asks after it."""

import json
from pathlib import Path

from app.store import held_out
from tests.app.api.live import Live
from tests.app.commands.conftest import Read, Said

GRADER = {"type": "math", "reference": "5"}


def active(live: Live) -> int:
    with live.store.session() as session:
        return held_out.active_version(session)


def test_uploaded_listed_shown_and_activated(live: Live, said: Said, read: Read, tmp_path: Path) -> None:
    assert "lepo data held-out upload FILE" in said("data", "held-out", "list")[1]
    file = tmp_path / "heldout.jsonl"
    file.write_text(json.dumps({"prompt": "2 + 3 — ?", "grader": GRADER}) + "\n", encoding="utf-8")
    assert said("data", "held-out", "upload", str(file)) == (0, "Held-out set 1, 1 prompts; the gate asks it.\n")
    made = read("data", "held-out", "upload", str(file), "--no-activate")
    assert (made["version"], made["active"], made["prompts"]) == (2, False, 1)
    assert active(live) == 1
    assert [one["version"] for one in read("data", "held-out", "list")] == [2, 1]
    assert [row.split()[:3] for row in said("data", "held-out", "list")[1].splitlines()] == [
        ["VERSION", "PROMPTS", "ASKED"],
        ["2", "1", "no"],
        ["1", "1", "yes"],
    ]
    assert said("data", "held-out", "show", "2") == (0, file.read_text(encoding="utf-8"))
    assert read("data", "held-out", "show", "2")["asked"] == 1
    assert said("data", "held-out", "activate", "2") == (0, "The gate asks held-out set 2.\n")
    assert active(live) == 2
    assert said("data", "held-out", "activate", "2")[1] == "The gate asks held-out set 2, as it did.\n"
    assert read("data", "held-out", "activate", "0") == {"object": "held_out.active", "version": 0, "changed": True}
    assert active(live) == 0


def test_a_file_that_cannot_be_asked_is_told_by_its_line(live: Live, said: Said, tmp_path: Path) -> None:
    file = tmp_path / "wrong.jsonl"
    file.write_text(json.dumps({"prompt": "2 + 3", "grader": GRADER}) + '\n{"prompt": "2 + 4"}\n')
    before = active(live)
    code, output = said("data", "held-out", "upload", str(file))
    assert code == 1
    assert "line 2 is not a prompt (or messages) with a grader: it has no 'grader'" in output
    file.write_bytes(b"\xff")
    assert "cannot be read as UTF-8" in said("data", "held-out", "upload", str(file))[1]
    assert active(live) == before
    code, output = said("data", "held-out", "activate", "99")
    assert code == 1
    assert "lepo data held-out list" in output
