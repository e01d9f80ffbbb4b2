"""The log of a real server process: one object a line, with ids, and nobody else's lines."""

import json
import logging
import signal
import warnings
from pathlib import Path
from typing import Any

import httpx

from app.store.connect import open_store
from app.store.keys import create_key
from app.telemetry.log import about, note
from tests.app.api.live import wait_for
from tests.app.api.test_serve import environment, free_port, is_ready, process
from tests.app.telemetry.own_log import own_log

LATELY = 120.0  # seconds to come up, on a machine that has more to do


def lines_of(database_url: str, model_dir: Path, tmp_path: Path, form: str) -> tuple[list[str], dict[str, Any]]:
    """Serve a few requests; gives what the process wrote, and what was answered."""
    port = free_port()
    store = open_store(database_url, pool=1)
    with store.session() as session:
        headers = {"Authorization": f"Bearer {create_key(session, 'log', ['infer', 'grade'])[1]}"}
    store.close()
    with process(environment(database_url, model_dir, tmp_path, port) | {"LEPO_LOG_FORMAT": form}) as running:
        wait_for(lambda: running.poll() is not None or is_ready(port), seconds=LATELY)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as client:
            body = {"model": "lepo", "messages": [{"role": "user", "content": "a secret"}], "max_tokens": 2, "n": 2}
            ids = {"X-Request-Id": "mine-1", "X-Session-Id": "episode 7"}
            answer = client.post("/v1/chat/completions", json=body, headers=ids).json()
            grade = f"/v1/interactions/{answer['choices'][1]['interaction_id']}/grades"
            client.post(grade, json={"value": 1}, headers={"X-Request-Id": "mine-2"})
            client.get("/v1/nothing%0AINFO%20lepo.access%20forged", headers={"X-Request-Id": "mine-3"})
            for path in ("/health", "/ready", "/metrics"):
                assert client.get(path).status_code == 200
        running.send_signal(signal.SIGTERM)
        assert running.stderr is not None
        written = running.stderr.read().splitlines()
        assert running.wait(30) == 0
    return written, answer


def test_every_line_is_an_object_with_ids(database_url: str, model_dir: Path, tmp_path: Path) -> None:
    written, answer = lines_of(database_url, model_dir, tmp_path, "json")
    lines = [json.loads(line) for line in written]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    roots = {line["logger"].split(".")[0] for line in lines}
    assert roots <= {"lepo", "app", "training"}, "nobody else's chatter"
    access = {line["request_id"]: line for line in lines if line["logger"] == "lepo.access"}
    assert set(access) == {"mine-1", "mine-2", "mine-3"}, "probes that went well are not logged"
    ids = [choice["interaction_id"] for choice in answer["choices"]]
    asked = access["mine-1"]
    assert asked["message"].startswith("POST /v1/chat/completions 200 in ")
    assert sorted(asked["interaction_ids"]) == sorted(ids)
    assert (asked["session_id"], asked["completion_id"], asked["policy_version"]) == ("episode 7", answer["id"], 0)
    assert access["mine-2"]["interaction_ids"] == [ids[1]]
    assert "a secret" not in "".join(written)


def test_lines_for_people_have_ids_too_and_cannot_be_forged(database_url: str, model_dir: Path, tmp_path: Path) -> None:
    written, _ = lines_of(database_url, model_dir, tmp_path, "text")
    (asked,) = [line for line in written if "POST /v1/chat/completions 200" in line]
    assert 'request_id="mine-1"' in asked
    assert 'session_id="episode 7"' in asked
    assert not any(line.startswith("INFO lepo.access") for line in written)
    assert not any("Loading weights" in line for line in written), "progress bars are no lines"
    assert not any("Started server process" in line or "alembic" in line for line in written)


def test_ids_end_with_what_they_are_about() -> None:
    with own_log("json") as stream:
        log = logging.getLogger("lepo.test")
        note(lost="there is no work under way")
        with about(job_id="job_1", policy_version=3):
            note(phase="batch")
            with about(interaction_ids=["int_1"]):
                log.info("inside")
            log.info("after")
            try:
                int("broken")
            except ValueError:
                log.exception("it broke")
        log.info("outside")
        logging.getLogger("alembic.runtime.migration").info("chatter")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("a library's", stacklevel=1)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["message"] for line in lines[:4]] == ["inside", "after", "it broke", "outside"]
    ids = {"job_id": "job_1", "policy_version": 3, "phase": "batch"}
    own = {"time", "level", "logger", "message", "exception"}
    assert [{name: line[name] for name in line if name not in own} for line in lines[:4]] == [
        {**ids, "interaction_ids": ["int_1"]},
        ids,
        ids,
        {},
    ]
    assert "ValueError: invalid literal" in lines[2]["exception"]
    assert [line["logger"] for line in lines[4:]] == ["py.warnings"]
