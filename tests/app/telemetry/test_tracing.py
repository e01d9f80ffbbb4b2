"""What a collector hears of a running server: a real one, over a real socket."""

import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from app.errors import BadRequest
from app.settings import read_settings
from app.telemetry.told import GradeTold, Silence
from app.telemetry.tracing import telemetry_of
from tests.app.api.live import served
from tests.app.telemetry.collector import attributes, over_grpc, over_http

PHASES = ["queue", "prefill", "latent", "decode", "commit"]
TRACE = "0af7651916cd43dd8448eb211c80319c"
GRADE = GradeTold("math", 0.5, "graded", "half of it", "chatcmpl-1", "int_1")


def test_an_answer_and_its_grade_are_told(database_url: str, model_dir: Path, tmp_path: Path) -> None:
    with over_http() as collector, served(database_url, model_dir, tmp_path, otel_endpoint=collector.url) as live:
        live.http(None).get("/health")
        headers = {"X-Session-Id": "episode 7", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
        body = {"model": "lepo", "messages": [{"role": "user", "content": "What is 40 - 7"}], "n": 2}
        asked = {**body, "max_tokens": 4, "ignore_eos": True, "temperature": 0.5, "user": "ada-lovelace"}
        answer = live.http().post("/v1/chat/completions", json=asked, headers=headers).json()
        first = answer["choices"][0]["interaction_id"]
        grade = {"value": 1, "comment": "well said indeed", "grader": {"kind": "user", "id": "ada"}}
        once = {"Idempotency-Key": "told-once"}
        for _ in range(2):
            assert live.http().post(f"/v1/interactions/{first}/grades", json=grade, headers=once).status_code == 201
        assert live.http().delete(f"/v1/interactions/{first}/grades?kind=user&id=ada").status_code == 200
        refused = live.http().post("/v1/chat/completions", json={**body, "model": "other"})
        assert refused.status_code == 404

    assert collector.services == {"lepo-serve"}
    (server, other) = collector.named("POST /v1/chat/completions")
    assert (server.trace_id.hex(), other.trace_id.hex() == TRACE) == (TRACE, False), "the caller's trace goes on"
    (told,) = collector.named("chat lepo")
    assert (told.trace_id, told.parent_span_id) == (server.trace_id, server.span_id)
    said = attributes(told)
    usage = answer["usage"]
    assert {name: said[name] for name in said if name.startswith("gen_ai.")} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "lepo",
        "gen_ai.request.model": "lepo",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": live.settings.top_p,
        "gen_ai.request.top_k": live.settings.top_k,
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.choice.count": 2,
        "gen_ai.conversation.id": "episode 7",
        "gen_ai.response.id": answer["id"],
        "gen_ai.response.model": "lepo@0",
        "gen_ai.response.finish_reasons": ["length", "length"],
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
    }
    assert (said["lepo.policy_version"], said["lepo.latent_steps"]) == (0, 6)

    for choice in answer["choices"]:
        own = [one for one in collector.spans if one.parent_span_id == told.span_id]
        own = [one for one in own if attributes(one)["lepo.interaction_id"] == choice["interaction_id"]]
        own.sort(key=lambda one: (one.start_time_unix_nano, one.end_time_unix_nano))
        assert [one.name for one in own] == PHASES
        assert own[0].start_time_unix_nano == pytest.approx(told.start_time_unix_nano, abs=5e6)
        for before, after in pairwise(own):
            assert after.start_time_unix_nano == pytest.approx(before.end_time_unix_nano, abs=5e6), (
                "one after the other"
            )
        assert all(one.end_time_unix_nano > one.start_time_unix_nano for one in own)

    statements = [
        one for one in collector.spans if "db.query.text" in attributes(one) and one.trace_id == server.trace_id
    ]
    assert statements
    assert any("INSERT INTO interactions" in attributes(one)["db.query.text"] for one in statements)
    assert not any("/health" in one.name for one in collector.spans)

    given, back = [attributes(one) for one in collector.events]
    assert {one.event_name for one in collector.events} == {"gen_ai.evaluation.result"}
    assert given == {
        "gen_ai.evaluation.name": "user",
        "gen_ai.evaluation.score.value": 1.0,
        "gen_ai.evaluation.score.label": "graded",
        "gen_ai.response.id": answer["id"],
        "lepo.interaction_id": first,
    }
    assert (back["gen_ai.evaluation.score.label"], "gen_ai.evaluation.score.value" in back) == ("retracted", False)
    graded = [one.trace_id for one in collector.named("POST /v1/interactions/{interaction_id}/grades")]
    assert collector.events[0].trace_id in graded, "the event stands under the request that brought it"
    assert {f"gen_ai.server.{name}" for name in ("request.duration", "time_to_first_token")} <= collector.figures
    for private in ("What is 40", "well said indeed", "ada-lovelace", answer["choices"][0]["message"]["content"]):
        assert private.encode() not in collector.everything, "texts and users stay in the store"


def test_a_collector_may_speak_grpc_and_be_named_by_the_standard_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    with over_grpc() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
        settings = read_settings()
        assert (settings.otel_endpoint, settings.otel_protocol) == ("environment", "grpc")
        tell(settings)
    assert [attributes(one)["gen_ai.evaluation.explanation"] for one in collector.events] == ["half of it"]
    resource = collector.logs[0].resource_logs[0].resource
    assert attributes(resource)["service.name"] == "mine"


def test_our_own_setting_goes_before_the_standard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with over_http() as ours, over_http() as theirs:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", theirs.url)
        monkeypatch.setenv("LEPO_OTEL_ENDPOINT", ours.url)
        tell(read_settings())
        monkeypatch.delenv("LEPO_OTEL_ENDPOINT")
        tell(read_settings())
        tell(read_settings())
    assert (len(ours.events), len(theirs.events)) == (1, 2)


def test_a_collector_that_is_away_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with over_http() as gone:
        monkeypatch.setenv("LEPO_OTEL_ENDPOINT", gone.url)
    began = time.monotonic()
    tell(read_settings())
    assert time.monotonic() - began < 30.0, "seconds of closing, no more"


def test_without_a_collector_nothing_is_loaded_and_without_packages_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(telemetry_of(read_settings(), "serve"), Silence)
    monkeypatch.setenv("LEPO_OTEL_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(BadRequest, match=r"pip install 'lepo-service\[otel\]'"):
        telemetry_of(read_settings(), "serve")


def tell(settings: Any) -> None:
    telemetry = telemetry_of(settings, "serve")
    telemetry.graded(GRADE)
    telemetry.close()
