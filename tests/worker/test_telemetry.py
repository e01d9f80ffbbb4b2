"""What a collector and the log hear of a worker's tasks, updates and grades."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from app.identifiers import show
from app.telemetry.tracing import telemetry_of
from tests.app.telemetry.collector import Collector, attributes, over_http
from tests.app.telemetry.own_log import own_log
from tests.worker.world import World
from worker.celery_app import LEARN, build, task_of
from worker.grade import grade
from worker.learn import learn
from worker.resident import Context


@contextmanager
def told(world: World) -> Iterator[tuple[Context, Celery, Collector]]:
    """A worker that tells; what it told is complete when the block has ended."""
    with over_http() as collector:
        settings = world.settings.model_copy(update={"otel_endpoint": collector.url})
        telemetry = telemetry_of(settings, "worker")
        celery = build(settings, "redis://127.0.0.1:1")
        telemetry.follow_stores(world.store)
        telemetry.follow_tasks(celery)
        try:
            yield replace(world.context, telemetry=telemetry), celery, collector
        finally:
            telemetry.close()


def test_an_update_is_told_with_its_phases_and_logged_with_its_job(world: World) -> None:
    world.samples()
    with own_log("json") as stream, told(world) as (context, celery, collector):
        celery.task(name=LEARN)(task_of(learn, context))
        celery.tasks[LEARN].apply().get()
    (job,) = world.jobs()
    assert job.verdict == "promoted"
    (update,) = collector.named("learn")
    (task,) = collector.named(f"run/{LEARN}")
    assert (update.trace_id, update.parent_span_id) == (task.trace_id, task.span_id)
    shown = show("job", job.id)
    expected = {"lepo.job_id": shown, "lepo.policy_version": 0, "lepo.outcome": "promoted", "lepo.answers": 32}
    assert attributes(update) == expected
    phases = [one for one in collector.spans if one.parent_span_id == update.span_id]
    phases.sort(key=lambda one: one.start_time_unix_nano)
    assert [one.name for one in phases] == ["claim", "batch", "update", "gate", "publish", "settle"]
    assert any("db.query.text" in attributes(one) and one.trace_id == task.trace_id for one in collector.spans)
    assert collector.services == {"lepo-worker"}
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    ended = next(line for line in lines if line["message"].endswith(": promoted"))
    assert (ended["job_id"], ended["policy_version"], ended["trace_id"]) == (shown, 0, task.trace_id.hex())


def test_an_update_that_ends_badly_is_told_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.samples()

    def break_down(*_: object) -> None:
        raise RuntimeError("the accelerator fell off")

    monkeypatch.setattr("worker.learn.update", break_down)
    with told(world) as (context, _, collector), pytest.raises(RuntimeError, match="accelerator"):
        learn(context)
    assert [attributes(one)["lepo.outcome"] for one in collector.named("learn")] == ["ended"]


def test_a_graders_verdict_is_an_evaluation(world: World, tmp_path: Path) -> None:
    right: dict[str, Any] = {"type": "string_check", "operation": "ne", "reference": "no answer is this"}
    broken: dict[str, Any] = {"type": "no such grader"}
    ((first, _),) = world.ask(["w2 w3"], grader=right)
    world.ask(["w2 w4"], grader=broken)
    with told(world) as (context, _, collector):
        while grade(context):  # one look may end before all are graded
            pass
    events = {attributes(one)["gen_ai.evaluation.score.label"]: attributes(one) for one in collector.events}
    assert set(events) == {"graded", "failed"}
    good, bad = events["graded"], events["failed"]
    assert (good["gen_ai.evaluation.name"], good["gen_ai.evaluation.score.value"]) == ("string_check", 1.0)
    assert good["lepo.interaction_id"] == show("int", first)
    assert good["gen_ai.response.id"].startswith("chatcmpl-")
    assert bad["error.type"] == "grader_failed"
    assert "gen_ai.evaluation.score.value" not in bad
    assert bad["gen_ai.evaluation.explanation"]
