"""What Prometheus reads: names that others' dashboards know, statuses by route, and how learning goes."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import ValidationError
from sqlalchemy import make_url, text, update

from app.engine.engine import Engine
from app.settings import Settings
from app.store import checkpoints, learning
from app.store.evaluations import record_evaluation
from app.store.policy_life import serving
from app.store.tables import Claim, Interaction, Job
from app.telemetry import learning as figures
from app.telemetry.engine import EngineCollector
from tests.app.api.live import Live, served, wait_for
from tests.app.api.test_disturbances import Gate

# What vLLM's own Grafana dashboard asks for.
VLLM = [
    *("e2e_request_latency_seconds_bucket", "prompt_tokens_total", "generation_tokens_total"),
    *("inter_token_latency_seconds_bucket", "request_time_per_output_token_seconds_bucket"),
    *("num_requests_running", "num_requests_waiting", "time_to_first_token_seconds_bucket", "kv_cache_usage_perc"),
    *("request_prompt_tokens_bucket", "request_generation_tokens_bucket", "request_success_total"),
    *("request_queue_time_seconds_sum", "request_prefill_time_seconds_sum", "request_decode_time_seconds_sum"),
    "request_max_num_generation_tokens_sum",
]


def scraped(live: Live) -> str:
    return live.http(None).get("/metrics").text


def value(live: Live, name: str, **labels: str) -> float | None:
    """The sum of the series of a name that have these labels; None where there is none."""
    found = [
        float(line.rsplit(" ", 1)[1])
        for line in scraped(live).splitlines()
        if re.match(rf"{re.escape(name)}(\{{|\s)", line)
        and all(f'{key}="{one}"' in line for key, one in labels.items())
    ]
    return sum(found) if found else None


def test_dashboards_of_vllm_find_what_they_read(database_url: str, model_dir: Path, tmp_path: Path) -> None:
    with served(database_url, model_dir, tmp_path, metrics_prefix="vllm") as live:
        body: dict[str, Any] = {"max_tokens": 6, "ignore_eos": True, "n": 3}
        usage = live.answer(**body)["usage"]
        wait_for(lambda: value(live, "vllm:request_params_n_count") == 1)
        lacking = [name for name in VLLM if value(live, f"vllm:{name}", model_name="lepo") is None]
        assert not lacking
        assert "lepo:" not in scraped(live)
        counts = {
            "prompt_tokens_total": usage["prompt_tokens"],
            "generation_tokens_total": 18,
            "request_generation_tokens_sum": usage["completion_tokens"],
            "request_prompt_tokens_sum": 3 * usage["prompt_tokens"],
            "request_max_num_generation_tokens_sum": 9,
            "request_params_max_tokens_sum": 9,
            "request_params_n_sum": 3,
            "request_success_total": 3,
            "request_time_per_output_token_seconds_count": 3,
        }
        assert {name: value(live, f"vllm:{name}") for name in counts} == counts
        parts = ["queue", "prefill", "latent", "decode"]
        seconds = [value(live, f"vllm:request_{part}_time_seconds_sum") or 0.0 for part in parts]
        whole = value(live, "vllm:e2e_request_latency_seconds_sum") or 0.0
        assert all(one > 0 for one in seconds)
        inference = value(live, "vllm:request_inference_time_seconds_sum")
        assert sum(seconds[1:]) == pytest.approx(inference)
        assert sum(seconds) <= whole


def test_the_cache_in_use_is_a_share(live: Live) -> None:
    assert value(live, "lepo:kv_cache_usage_perc") == 0.0
    body = {"model": "lepo", "messages": [{"role": "user", "content": "2"}], "n": 8, "max_tokens": 150}
    with live.http().stream(
        "POST", "/v1/chat/completions", json={**body, "ignore_eos": True, "stream": True}
    ) as answer:
        lines = answer.iter_lines()
        next(lines)
        seen = value(live, "lepo:kv_cache_usage_perc") or 0.0
        list(lines)
    assert 0.0 < seen <= 1.0


@pytest.mark.parametrize("prefix", ["", "a b", "9x", "a:b"])
def test_a_prefix_is_a_name(prefix: str) -> None:
    with pytest.raises(ValidationError, match="metrics_prefix"):
        Settings(metrics_prefix=prefix)


def test_requests_are_counted_by_route_and_status(live: Live) -> None:
    def count(method: str, handler: str, status: str) -> float:
        return value(live, "lepo:http_requests_total", method=method, handler=handler, status=status) or 0.0

    asked = [
        ("GET", "/health", "/health", None, "200"),
        ("HEAD", "/health", "/health", None, "200"),
        ("GET", "/v1/models", "/v1/models", None, "401"),
        ("GET", f"/v1/interactions/int_{'0' * 32}", "/v1/interactions/{interaction_id}", "both", "404"),
        ("POST", "/v1/chat/completions", "/v1/chat/completions", "both", "400"),
        ("GET", "/v1/no/such/route", "other", "both", "404"),
        ("PROPFIND", "/health", "/health", None, "405"),
    ]
    shown = [(method if method != "PROPFIND" else "other", handler, status) for method, _, handler, _, status in asked]
    before = [count(*one) for one in shown]
    for method, path, _, key, status in asked:
        assert str(live.http(key).request(method, path).status_code) == status, path
    grown = [count(*one) - was for one, was in zip(shown, before, strict=True)]
    assert grown == [1.0] * len(asked)


def test_requests_are_timed_by_route(live: Live) -> None:
    before = value(live, "lepo:http_request_duration_seconds_count", handler="/v1/models") or 0.0
    live.http().get("/v1/models")
    assert value(live, "lepo:http_request_duration_seconds_count", handler="/v1/models") == before + 1
    assert 0 < (value(live, "lepo:http_request_duration_seconds_sum", handler="/v1/models") or 0) < 60


def test_the_disk_of_the_checkpoints_is_told(live: Live) -> None:
    room = shutil.disk_usage(live.settings.var_dir)
    assert value(live, "lepo:disk_size_bytes") == room.total
    assert 0 < (value(live, "lepo:disk_free_bytes") or 0) <= room.total


def test_an_engine_that_failed_is_told(live: Live) -> None:
    assert value(live, "lepo:engine_failed") == 0
    failed = replace(live.engine.stats(), failure="RuntimeError: out of memory")
    told = EngineCollector(cast("Engine", SimpleNamespace(stats=lambda: failed)), "lepo:", "lepo")
    assert {one.name: one.samples[0].value for one in told.collect() if one.samples}["lepo:engine_failed"] == 1


def test_a_body_that_is_too_large_is_counted(live: Live) -> None:
    live.http().post("/v1/chat/completions", content=b"x" * (live.settings.max_body_bytes + 1))
    assert value(live, "lepo:http_requests_total", status="413") == 1.0


def test_how_learning_goes_is_told(
    database_url: str, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "FRESH_S", 0.0)
    with served(database_url, model_dir, tmp_path, learn=False) as live:
        names = ("grades_pending", "grades_pending_oldest_seconds", "grades_waiting", "grades_waiting_oldest_seconds")
        assert [value(live, f"lepo:{name}") for name in names] == [0, 0, 0, 0]
        assert value(live, "lepo:last_update_timestamp_seconds") is None, "there was none"
        assert (value(live, "lepo:store_up"), value(live, "lepo:learning_frozen")) == (1, 0)

        ids = [choice["interaction_id"] for choice in live.answer(n=3, grader=SUM)["choices"]]
        live.http().post(f"/v1/interactions/{ids[0]}/grades", json={"value": 1})
        with live.store.session() as session:
            session.execute(update(Interaction).values(created_at=text("now() - interval '90 seconds'")))
            session.execute(
                update(Interaction)
                .where(Interaction.graded_at.is_not(None))
                .values(graded_at=text("now() - interval '40 seconds'"))
            )
        assert [value(live, f"lepo:{name}") for name in (names[0], names[2])] == [3, 1]
        assert 90 <= (value(live, "lepo:grades_pending_oldest_seconds") or 0) < 150
        assert 40 <= (value(live, "lepo:grades_waiting_oldest_seconds") or 0) < 100

        with live.store.session() as session:
            session.execute(
                text("UPDATE interactions SET grading_attempts = 1, grading_until = now() WHERE choice > 0")
            )
        assert value(live, "lepo:grades_pending") == 3, "one that was tried still waits"

        assert value(live, "lepo:live_reward") == 1.0
        assert value(live, "lepo:heldout_accuracy") is None, "it was not asked"
        with live.store.session() as session:
            served_now = serving(session)
            assert served_now is not None
            for correct in (1, 2):
                record_evaluation(session, served_now.id, "gate", correct=correct, total=4)
        assert value(live, "lepo:heldout_accuracy") == 3 / 8, "all looks together"

        learned_by_a_job(live, ids[0])
        assert value(live, "lepo:updates_last_day", outcome="promoted") == 1
        assert value(live, "lepo:updates_last_day", outcome="failed") == 1
        assert value(live, "lepo:last_update_staleness") == 0
        assert value(live, "lepo:last_update_divergence") == 0.25
        with live.store.session() as session:
            now = session.scalar(text("SELECT extract(epoch FROM now())"))
            learning.freeze(session, "ada", "to look into it")
        assert abs(float(now or 0) - (value(live, "lepo:last_update_timestamp_seconds") or 0)) < 60
        assert value(live, "lepo:learning_frozen") == 1


SUM = {"type": "string_check", "operation": "eq", "reference": "5"}


def learned_by_a_job(live: Live, interaction: str) -> None:
    """Write what a worker would: a job that failed, and one that learned from an answer and was promoted."""
    from app.identifiers import read

    with live.store.session() as session:
        base = serving(session)
        assert base is not None
        made = checkpoints.publish(session, path="/tmp/v1", digest="11" * 32, parent_id=base.id)
        session.flush()
        for status, verdict, result in (("failed", None, None), ("succeeded", "promoted", made.id)):
            job = Job(
                status=status,
                trigger="schedule",
                requested_by="beat",
                config={},
                base_checkpoint_id=base.id,
                result_checkpoint_id=result,
                verdict=verdict,
                fault="infrastructure" if status == "failed" else None,
                finished_at=text("now()"),
            )
            session.add(job)
            session.flush()
        session.add(Claim(interaction_id=read("int", interaction), job_id=job.id, outcome="learned", divergence=0.25))


def test_figures_of_learning_are_read_at_most_every_few_seconds(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever scrapes needs no key, so scraping must not be a way to keep the database busy."""
    reads: list[int] = []
    from app.api.console import health

    def counting(session: Any) -> figures.LearningFigures:
        reads.append(1)
        return figures.read_figures(session)

    monkeypatch.setattr(health, "read_figures", counting)
    monkeypatch.setattr(figures, "FRESH_S", 600.0)
    for _ in range(20):
        scraped(live)
    assert len(reads) <= 1
    monkeypatch.setattr(figures, "FRESH_S", 0.0)
    scraped(live)
    assert len(reads) >= 1


def test_without_its_store_a_server_still_shows_its_own(
    postgres_url: str, database_url: str, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "FRESH_S", 0.0)
    with served(database_url, model_dir, tmp_path) as live:
        gate = Gate(postgres_url, str(make_url(database_url).database))
        assert value(live, "lepo:store_up") == 1
        gate.open(yes=False)
        assert (value(live, "lepo:store_up"), value(live, "lepo:slots")) == (0, 8)
        assert value(live, "lepo:grades_waiting") is None, "an old figure would look like a fresh one"
        gate.open(yes=True)
        wait_for(lambda: value(live, "lepo:store_up") == 1)
