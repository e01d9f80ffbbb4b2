"""The profile `monitoring`: rules that fire when they should, and a board whose every query a real Prometheus answers.

Prometheus and promtool of Debian's package `prometheus`; where they are not installed these tests are skipped. What
Grafana draws is not looked at: the board is read as Grafana reads it, by its queries.
"""

import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
import yaml
from sqlalchemy import text

from app.cli import build
from app.settings import named
from app.store.evaluations import record_evaluation
from app.store.policy_life import serving
from app.telemetry import learning
from tests.app.api.conftest import model_dir as model_dir  # noqa: PLC0414, a fixture
from tests.app.api.live import Live, served, wait_for
from tests.app.api.test_metrics import SUM, learned_by_a_job
from tests.docker.reading import DOCKER, ROOT, variables

MONITORING = DOCKER / "monitoring"
BOARD = MONITORING / "grafana" / "boards" / "lepo.json"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"] for rule in group["rules"]
]
installed = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="Prometheus is not installed: apt-get install prometheus",
)

# Alert: series that make it fire within half a day, series that do not (promtool's notation, a value a minute).
LONG = "x770"
FIRING: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "LepoServerDown": ({'up{job="lepo", instance="a"}': f"0{LONG}"}, {'up{job="lepo", instance="a"}': f"1{LONG}"}),
    "LepoEngineFailed": (
        {"lepo:engine_steps_total": "0+9x755 0 5 9 0 5 9x9"},
        {"lepo:engine_steps_total": "0+9x755 0 9 18 27x9", "lepo:engine_failed": f"0{LONG}"},
    ),
    "LepoServerErrors": (
        {
            'lepo:http_requests_total{handler="/v1/chat/completions", status="503"}': f"0+3{LONG}",
            'lepo:http_requests_total{handler="/v1/chat/completions", status="200"}': f"0+97{LONG}",
        },
        {
            'lepo:http_requests_total{handler="/v1/chat/completions", status="503"}': f"0+1{LONG}",
            'lepo:http_requests_total{handler="/ready", status="503"}': f"0+100{LONG}",
            'lepo:http_requests_total{handler="/v1/chat/completions", status="200"}': f"0+99{LONG}",
        },
    ),
    "LepoQueueFull": ({"lepo:requests_refused_total": f"0+1{LONG}"}, {"lepo:requests_refused_total": f"9{LONG}"}),
    "LepoNotFinite": (
        {"lepo:requests_not_finite_total": "0x760 1x20"},
        {"lepo:requests_not_finite_total": "0x100 1x670"},
    ),
    "LepoSwapFails": ({"lepo:swap_failures_total": "0x760 1x20"}, {"lepo:swap_failures_total": "0x100 1x670"}),
    "LepoStoreDown": (
        {'lepo:store_up{instance="a"}': f"1{LONG}", 'lepo:store_up{instance="b"}': f"0{LONG}"},
        {'lepo:store_up{instance="a"}': f"1{LONG}"},
    ),
    "LepoDiskFilling": (
        {"lepo:disk_free_bytes": f"9{LONG}", "lepo:disk_size_bytes": f"100{LONG}"},
        {"lepo:disk_free_bytes": f"11{LONG}", "lepo:disk_size_bytes": f"100{LONG}"},
    ),
    "LepoNotLearning": (
        {"lepo:grades_waiting_oldest_seconds": f"0+60{LONG}", "lepo:learning_frozen": f"0{LONG}"},
        {"lepo:grades_waiting_oldest_seconds": f"0+60{LONG}", "lepo:learning_frozen": f"1{LONG}"},
    ),
    "LepoUpdatesFail": (
        {'lepo:updates_last_day{outcome="failed"}': f"3{LONG}"},
        {'lepo:updates_last_day{outcome="refused"}': f"9{LONG}", 'lepo:updates_last_day{outcome="failed"}': f"2{LONG}"},
    ),
    "LepoGradersBehind": (
        {"lepo:grades_pending_oldest_seconds": f"1900{LONG}"},
        {"lepo:grades_pending_oldest_seconds": f"1700{LONG}"},
    ),
    "LepoFrozenLong": ({"lepo:learning_frozen": f"1{LONG}"}, {"lepo:learning_frozen": "0x300 1x470"}),
}
AT = 765  # minutes after the first value at which is asked what fires


def queries() -> list[tuple[str, str]]:
    """Every query of the board, with its panel, and a time in place of Grafana's word for one."""
    panels = json.loads(BOARD.read_text())["panels"]
    return [
        (panel["title"], target["expr"].replace("$__rate_interval", "1m"))
        for panel in panels
        for target in panel.get("targets", ())
    ]


def metric_names(query: str) -> set[str]:
    return set(re.findall(r"lepo:\w+", query))


def test_the_board_is_what_the_script_writes() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "board.py")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == BOARD.read_text()


def test_the_board_is_of_the_source_that_is_provisioned() -> None:
    source = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/lepo.yml").read_text())["datasources"][0]
    panels = json.loads(BOARD.read_text())["panels"]
    used = {target["datasource"]["uid"] for panel in panels for target in panel.get("targets", ())}
    assert used == {source["uid"]}
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    assert source["url"] == "http://prometheus:9090"
    mounted = [volume.split(":")[:2] for volume in services["grafana"]["volumes"]]
    boards = yaml.safe_load((MONITORING / "grafana/provisioning/dashboards/lepo.yml").read_text())["providers"][0]
    assert ["./monitoring/grafana/boards", boards["options"]["path"]] in mounted
    assert ["./monitoring/grafana/provisioning", "/etc/grafana/provisioning"] in mounted


def test_only_metrics_that_there_are_are_asked_for() -> None:
    from app.reference import metrics

    there = set()
    for name, kind, _, _ in metrics.described():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(kind, ("",))
        there |= {name + suffix for suffix in suffixes}
    asked = {name for _, query in queries() for name in metric_names(query)}
    asked |= {name for rule in RULES for name in metric_names(rule["expr"])}
    assert asked <= there
    assert len(asked) > 25


def test_every_alert_says_what_to_do_in_words_that_there_are() -> None:
    known = set(named()) | variables()
    for rule in RULES:
        told = rule["annotations"]["do"]
        assert rule["annotations"]["summary"]
        assert set(re.findall(r"LEPO_\w+", told)) <= known, rule["alert"]
        for words in re.findall(r"\blepo ([a-z]+(?: [a-z]+)?)", told):
            assert is_command(words.split()), (rule["alert"], words)


def is_command(words: list[str]) -> bool:
    """Whether `lepo WORDS` begins with a command, to its end where that is a group."""
    here: click.Command = build()
    for word in words:
        if not isinstance(here, click.Group):
            return True  # an argument, or the sentence goes on
        if word not in here.commands:
            return False
        here = here.commands[word]
    return not isinstance(here, click.Group)


@installed
def test_promtool_takes_the_configuration() -> None:
    command = ["promtool", "check", "config", str(MONITORING / "prometheus.yml")]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert f"{len(RULES)} rules found" in said.stdout


@installed
def test_every_alert_fires_when_it_should_and_else_does_not(tmp_path: Path) -> None:
    assert list(FIRING) == [rule["alert"] for rule in RULES]
    cases = []
    for alert, parts in FIRING.items():
        for series, fires in zip(parts, (1, 0), strict=True):
            asked = {
                "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}} > 0) or vector(0)',
                "eval_time": f"{AT}m",
                "exp_samples": [{"labels": "{}", "value": fires}],
            }
            cases.append(
                {
                    "name": f"{alert}: {fires}",
                    "interval": "1m",
                    "input_series": [{"series": name, "values": values} for name, values in series.items()],
                    "promql_expr_test": [asked],
                }
            )
    shutil.copy(MONITORING / "rules.yml", tmp_path)
    written = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": cases}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(written))
    command = ["promtool", "test", "rules", "tests.yml"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr


@contextmanager
def prometheus(directory: Path, target: str) -> Iterator[httpx.Client]:
    """Run Prometheus on our configuration, which finds one server at an address and asks it often."""
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [target]}]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(MONITORING / "rules.yml", directory)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = ["prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data"]
    with (
        (directory / "log").open("w") as log,
        subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log) as process,
        httpx.Client(base_url=f"http://{address}") as client,
    ):
        try:
            wait_for(lambda: answers(client, process))
            yield client
        finally:
            process.terminate()


def answers(client: httpx.Client, process: subprocess.Popen[bytes]) -> bool:
    """Whether Prometheus is ready; it must not have ended."""
    assert process.poll() is None, "Prometheus ended; is its address taken?"
    try:
        return client.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def series(client: httpx.Client, query: str) -> list[dict[str, Any]]:
    """Ask a query of this moment."""
    response = client.get("/api/v1/query", params={"query": query})
    assert response.status_code == 200, (query, response.text)
    found: list[dict[str, Any]] = response.json()["data"]["result"]
    return found


def lived(live: Live) -> None:
    """Let a server do everything once that has a figure."""
    ids = [choice["interaction_id"] for choice in live.answer(n=3, grader=SUM)["choices"]]
    live.http().post(f"/v1/interactions/{ids[0]}/grades", json={"value": 1}).raise_for_status()
    learned_by_a_job(live, ids[0])
    with live.store.session() as session:
        served_now = serving(session)
        assert served_now is not None
        record_evaluation(session, served_now.id, "heldout", correct=3, total=4)
        session.execute(text("UPDATE interactions SET created_at = now() - interval '90 seconds'"))


@installed
def test_a_real_prometheus_answers_every_query_and_every_rule(
    database_url: str, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "FRESH_S", 0.0)
    (tmp_path / "prometheus").mkdir()
    with served(database_url, model_dir, tmp_path, learn=False) as live:
        lived(live)
        with prometheus(tmp_path / "prometheus", live.url.removeprefix("http://")) as asked:
            wait_for(lambda: bool(series(asked, "count_over_time(lepo:store_up[1m]) > 2")))
            empty = {(title, query) for title, query in queries() if not series(asked, query)}
            assert not empty
            values = {name: float(series(asked, f"max(lepo:{name})")[0]["value"][1]) for name in SHOWN}
            assert values == SHOWN
            wait_for(lambda: {rule["health"] for rule in rules(asked)} == {"ok"})
            states = {rule["name"]: rule["state"] for rule in rules(asked)}
            del states["LepoDiskFilling"]  # the disk of who runs this may be full
            assert states == dict.fromkeys(set(FIRING) - {"LepoDiskFilling"}, "inactive")
        assert float(live.http(None).get("/metrics").text.split("\nlepo:disk_free_bytes ")[1].split("\n")[0]) > 0


SHOWN = {"live_reward": 1.0, "heldout_accuracy": 0.75, "engine_failed": 0.0, "grades_pending": 3.0}


def rules(client: httpx.Client) -> list[dict[str, Any]]:
    groups = client.get("/api/v1/rules").json()["data"]["groups"]
    return [rule for group in groups for rule in group["rules"]]
