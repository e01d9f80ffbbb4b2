"""`lepo doctor` with nothing running, with everything running, and with each part broken on purpose."""

import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from sqlalchemy import make_url

from app.doctor import machine, model, parts
from app.doctor.finding import Finding
from app.settings import Settings
from app.store.migrate import downgrade
from tests.app.api.live import Live
from tests.app.test_cli import lepo


def doctor(**env: str) -> tuple[int, dict[str, list[Finding]]]:
    """Run it; gives the status, and the findings by check."""
    code, output = lepo("doctor", "--json", **env)
    said = json.loads(output)
    assert said["well"] is (code == 0)
    found: dict[str, list[Finding]] = {}
    for one in said["findings"]:
        found.setdefault(one["check"], []).append(Finding(**one))
        assert one["do"] or one["state"] in {"ok", "skip"}, "what is amiss comes with what to do"
    return code, found


def states(found: dict[str, list[Finding]]) -> dict[str, str]:
    return {check: one[-1].state for check, one in found.items()}


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_it_works_where_nothing_runs(tmp_path: Path, free_port: int) -> None:
    code, found = doctor(LEPO_VAR_DIR=str(tmp_path), LEPO_PORT=str(free_port), LEPO_DEVICE="cpu")
    assert code == 0
    expected = {"settings": "warn", "port": "ok", "disk": "ok", "cores": "ok", "gpu": "ok", "model": "ok"}
    expected |= {"memory": "ok", "held-out": "skip", "database": "skip", "broker": "skip", "service": "skip"}
    assert states(found) == expected
    assert "lepo up" in found["service"][0].says


def test_it_finds_a_whole_service_well(live: Live, redis_url: str, tmp_path: Path) -> None:
    heldout = tmp_path / "heldout.jsonl"
    line = {"prompt": "1+1=", "grader": {"type": "math", "reference": "2"}}
    heldout.write_text((json.dumps(line) + "\n") * 60)
    env = {
        "LEPO_VAR_DIR": str(tmp_path),
        "LEPO_DATABASE_URL": live.store.engine.url.render_as_string(hide_password=False),
        "LEPO_REDIS_URL": redis_url,
        "LEPO_MODEL": live.settings.model,
        "LEPO_MAX_LENGTH": "256",
        "LEPO_MAX_COMPLETION_TOKENS": "128",
        "LEPO_HELDOUT": str(heldout),
        "LEPO_DEVICE": "cpu",
        "LEPO_PORT": "0",
        "LEPO_URL": live.url,
    }
    code, found = doctor(**env)
    assert code == 0
    assert set(states(found).values()) == {"ok"}, found
    assert [one.says.split()[0] for one in found["clock"]] == ["the", "the"], "the database's and the service's"
    assert "serves version 0" in found["service"][0].says
    code, output = lepo("doctor", **env)
    assert code == 0
    assert output.endswith("All is well.\n")


def test_settings_that_cannot_be_read_are_told_and_end_it(tmp_path: Path) -> None:
    code, found = doctor(LEPO_VAR_DIR=str(tmp_path), LEPO_PORT="99999", LEPO_SLOTS="many")
    assert code == 1
    assert [one.says.split(":")[0] for one in found["settings"]] == ["LEPO_PORT", "LEPO_SLOTS"]
    assert states(found)["machine"] == "skip"


def test_what_is_broken_is_said_with_what_to_do(tmp_path: Path, free_port: int) -> None:
    heldout = tmp_path / "heldout.jsonl"
    heldout.write_text('{"prompt": "1"}\n')
    code, output = lepo(
        "doctor",
        LEPO_VAR_DIR=str(tmp_path),
        LEPO_DATABASE_URL=f"postgresql+psycopg://lepo@127.0.0.1:{free_port}/lepo",
        LEPO_REDIS_URL=f"redis://127.0.0.1:{free_port}/0",
        LEPO_MODEL=str(tmp_path / "nothing"),
        LEPO_HELDOUT=str(heldout),
        LEPO_DEVICE="cpu",
        LEPO_PORT=str(free_port),
    )
    assert code == 1
    broken = [line.split()[1] for line in output.splitlines() if line.startswith("FAIL")]
    assert broken == ["model", "held-out", "database", "broker"]
    assert output.count("->") >= 4
    assert f"{heldout}:1 is not a prompt" in output
    assert "4 broken" in output.splitlines()[-1]


def test_a_database_of_another_release(database_url: str) -> None:
    downgrade(database_url, "-1")
    found = list(parts.database(Settings(database_url=database_url)))
    assert (found[0].state, found[0].do) == ("fail", "run: lepo migrate (an older release cannot use a newer schema)")
    stranger = make_url(database_url).set(username="stranger").render_as_string(hide_password=False)
    assert [one.state for one in parts.database(Settings(database_url=stranger))] == ["fail"]


def test_more_connections_than_postgres_has(database_url: str) -> None:
    found = list(parts.database(Settings(database_url=database_url, database_pool=200, control_pool=50)))
    assert [(one.check, one.state) for one in found] == [("database", "ok"), ("database", "warn"), ("clock", "ok")]


@pytest.mark.parametrize(("ahead", "state"), [(1.0, "ok"), (-5.0, "warn"), (90.0, "fail")])
def test_clocks(ahead: float, state: str) -> None:
    found = parts.clock("the database's", ahead)
    assert found.state == state
    if state != "ok":
        assert ("behind" if ahead < 0 else "ahead of") in found.says


@pytest.fixture
def stranger() -> Iterator[str]:
    """A web server that is not ours, whose clock is an hour off."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_stranger_is_not_taken_for_the_service(stranger: str) -> None:
    [found] = parts.service(stranger)
    assert found.state == "fail"
    assert "is not this service" in found.says
    port = int(stranger.rpartition(":")[2])
    assert machine.port(Settings(port=port)).state == "warn"


def test_a_service_that_is_not_ready(live: Live) -> None:
    downgrade(live.store.engine.url.render_as_string(hide_password=False), "-1")
    [found] = parts.service(live.url)
    assert (found.state, "lepo migrate" in found.says) == ("fail", True)


def test_hints_that_nobody_reads(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.stack.redis_question import ask

    monkeypatch.setattr(parts, "PATIENCE_S", 0.1)
    settings = Settings(redis_url=redis_url)
    assert parts.broker(settings).state == "ok"
    ask(redis_url, ("RPUSH", "lepo-learn", "x"))
    assert parts.broker(settings).state == "warn"


def test_too_little_memory_disk_or_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = Settings(device="cpu", var_dir=tmp_path / "not" / "yet", threads=256)
    assert machine.cores(settings).state == "warn"
    assert machine.disk(settings).state == "ok"
    monkeypatch.setattr(machine, "LEAST_DISK", 1e18)
    assert machine.disk(settings).state == "fail"
    free = machine.memory_free()
    assert 0 < free < 1e15
    assert model.memory(settings, free // 10, 0).state == "ok"
    assert model.memory(settings, free // 2, free).state == "warn"
    assert model.memory(settings, 2 * free, 0).state == "fail"


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    [found] = machine.gpu(Settings(device="cuda:0"))
    assert found.state == "fail"
    assert [one.state for one in machine.gpu(Settings(device="auto"))] == ["ok"]


def test_a_few_held_out_prompts_are_too_few(tmp_path: Path) -> None:
    heldout = tmp_path / "heldout.jsonl"
    heldout.write_text(json.dumps({"prompt": "1+1=", "grader": {"type": "math", "reference": "2"}}) + "\n")
    assert model.held_out(Settings(heldout=heldout)).state == "warn"


def test_a_model_that_must_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.models.source.installed", lambda _: None)
    [found] = model.model(Settings(model="smollm2", var_dir=tmp_path))
    assert (found.state, found.do) == ("warn", "fetch it before: lepo model fetch smollm2")
