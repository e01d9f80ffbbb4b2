"""Grading in a process of its own: it grades, and the worker beside it does not."""

import time
from pathlib import Path

import httpx

from app.stack.stack import Stack


def test_grades_come_from_a_process_of_their_own_when_it_is_set(tmp_path: Path) -> None:
    env = {
        "LEPO_PORT": "0",
        "LEPO_MAX_LENGTH": "64",
        "LEPO_GRADE_INTERVAL": "0.3",
        "LEPO_GRADE_APART": "true",
        "LEPO_SLOTS": "4",
    }
    with Stack(tmp_path / "stack", env) as stack:
        assert {"worker", "grader"} <= set(stack.pids)
        key = stack.create_key("someone", ("infer", "grade"))
        with httpx.Client(base_url=stack.base_url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as http:
            asked = {
                "model": "lepo",
                "messages": [{"role": "user", "content": "1 + 2"}],
                "max_tokens": 8,
                "grader": {"type": "string_check", "reference": "nothing like it", "operation": "ne"},
            }
            target = http.post("/v1/chat/completions", json=asked).json()["choices"][0]["interaction_id"]
            deadline = time.monotonic() + 60
            entries: list[dict[str, object]] = []
            while not entries and time.monotonic() < deadline:
                entries = http.get(f"/v1/interactions/{target}/grades").json()["data"]
                time.sleep(0.2)
    assert [entry["value"] for entry in entries] == [1.0]
    logs = stack.var_dir / "logs"
    assert "graded: {'graded': 1}" in (logs / "grader.log").read_text()
    assert "listens for learn" in (logs / "worker.log").read_text()
    assert "graded:" not in (logs / "worker.log").read_text()
