"""Learning from live traffic: users grade as their condition says, and figures are read from the database."""

import asyncio
import json
import random
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from sqlalchemy import func, select

from app.store.connect import Store
from app.store.tables import Claim
from benchmarks.online.command import command, report_of
from benchmarks.online.conditions import (
    CLEAN,
    CONDITIONS,
    CORRECTIONS,
    FLOOD,
    GRADERS,
    NOISY,
    THUMBS_UP,
    settings_of,
)
from benchmarks.online.crowd import Crowd, User, is_right, opinion
from benchmarks.online.ledger import read_ledger
from benchmarks.online.page import write_page
from benchmarks.online.picture import draw
from benchmarks.online.trial import Plan, hostile_users, key_id
from tests.worker.world import World, even, make_model, make_world
from training.tasks.families import generate
from training.tasks.problem import Problem
from training.tasks.splits import Split
from worker.grade import grade
from worker.learn import learn

GRADER = {"type": "string_check", "reference": "4", "operation": "eq"}
PROBLEM = Problem("2 + 2", "4", GRADER, "sums", 1)
MACHINE = {"cores": 2, "processor": "a processor", "alone": True}
SETTINGS = {"grades": 80, "exams": 5, "problems": 200, "users": 20, "limit_s": 110.0, "seeds": [0], "code": "abc"}


@pytest.fixture
def world(store: Store, tmp_path: Path) -> World:
    return make_world(store, make_model(tmp_path / "model"), tmp_path / "var")


def test_honest_users_say_the_truth_and_hostile_ones_the_opposite() -> None:
    rng = random.Random(0)
    for right in (True, False):
        assert opinion(right, hostile=False, manners=CLEAN, rng=rng) == (float(right), False)
        assert opinion(right, hostile=True, manners=NOISY, rng=rng) == (float(not right), False)


def test_silence_and_mistakes_come_as_often_as_the_condition_says() -> None:
    rng = random.Random(1)
    said = [opinion(True, hostile=False, manners=NOISY, rng=rng) for _ in range(4000)]
    graded = [flipped for value, flipped in said if value is not None]
    assert len(graded) / len(said) == pytest.approx(0.7, abs=0.03)
    assert sum(graded) / len(graded) == pytest.approx(0.1, abs=0.02)
    assert all((value == 0.0) is flipped for value, flipped in said if value is not None)


def crowd_against(
    answers: list[httpx.Request], manners: Any = CLEAN, *, graded: int = 201, problem: Problem = PROBLEM
) -> Crowd:
    def serve(request: httpx.Request) -> httpx.Response:
        answers.append(request)
        if request.url.path == "/v1/chat/completions":
            choice = {"interaction_id": "int_1", "message": {"content": "4"}}
            return httpx.Response(200, json={"choices": [choice]})
        return httpx.Response(graded, json={})

    def user(name: int, *, hostile: bool) -> User:
        client = httpx.AsyncClient(transport=httpx.MockTransport(serve), base_url="http://service")
        return User(name, client, hostile=hostile, pace=100.0)

    return Crowd([user(0, hostile=True), user(1, hostile=False)], [problem], manners, seed=0)


async def for_a_while(crowd: Crowd, seconds: float) -> None:
    living = asyncio.create_task(crowd.live())
    await asyncio.sleep(0.02)
    assert crowd.counts.answers == 0, "the doors are closed"
    crowd.doors.set()
    await asyncio.sleep(seconds)
    crowd.doors.clear()
    await asyncio.sleep(0.05)
    words: list[str] = []
    await crowd.last_grades(words.append, limit_s=5.0)
    assert words == [], "nobody waited long enough to be told"
    living.cancel()
    with pytest.raises(asyncio.CancelledError):
        await living


def test_a_crowd_asks_for_one_answer_and_grades_it_once() -> None:
    requests: list[httpx.Request] = []
    crowd = crowd_against(requests)
    asyncio.run(for_a_while(crowd, 0.1))
    counts = crowd.counts
    assert counts.answers == counts.right == counts.grades > 4
    assert 0 < counts.hostile < counts.grades
    bodies = [json.loads(request.content) for request in requests]
    assert all("n" not in body for body in bodies)
    assert {body["value"] for body in bodies if "value" in body} == {0.0, 1.0}


def test_where_the_server_grades_requests_name_the_grader_and_nothing_is_posted() -> None:
    requests: list[httpx.Request] = []
    crowd = crowd_against(requests, GRADERS)
    asyncio.run(for_a_while(crowd, 0.1))
    assert crowd.counts.answers == crowd.counts.grades == len(requests) > 2
    assert all(json.loads(request.content)["grader"] == GRADER for request in requests)


def test_grades_come_late_and_a_failed_call_is_counted() -> None:
    requests: list[httpx.Request] = []
    crowd = crowd_against(requests, replace(CLEAN, delay_s=0.05), graded=500)
    asyncio.run(for_a_while(crowd, 0.1))
    assert crowd.counts.grades == 0
    assert crowd.counts.failed == crowd.counts.answers > 2
    assert "HTTP 500" in crowd.counts.errors[0]


def test_where_nobody_gives_numbers_a_third_of_what_is_wrong_is_corrected() -> None:
    requests: list[httpx.Request] = []
    [problem] = generate("chained_arithmetic", Split.TRAIN, 1, seed=0)
    crowd = crowd_against(requests, CORRECTIONS, problem=problem)
    asyncio.run(for_a_while(crowd, 0.3))
    bodies = [json.loads(request.content) for request in requests]
    posted = [body for body in bodies if "correction" in body]
    assert not any("value" in body for body in bodies)
    assert 0 < len(posted) == crowd.counts.corrections < crowd.counts.answers
    assert all(is_right(problem, str(body["correction"])) for body in posted)


def test_where_people_praise_most_of_what_is_wrong_goes_unsaid() -> None:
    rng = random.Random(3)
    said = [opinion(right, hostile=False, manners=THUMBS_UP, rng=rng)[0] for right in [True] * 400 + [False] * 600]
    given = [value for value in said if value is not None]
    assert sum(given) / len(given) == pytest.approx(0.9, abs=0.04)


def test_conditions_become_settings_of_the_service() -> None:
    assert settings_of(CONDITIONS["control"])["LEPO_LEARN"] == "false"
    assert settings_of(CONDITIONS["clean-batch"]) == {
        "LEPO_LEARN": "true",
        "LEPO_BASELINE": "batch",
        "LEPO_KEY_SHARE": "0.1",
        "LEPO_RESAMPLE": "0",
    }
    assert settings_of(CONDITIONS["clean-resampled"])["LEPO_RESAMPLE"] == "4"
    plan = Plan(grades=100)
    assert [hostile_users(CONDITIONS[name], plan) for name in ("clean-batch", "noisy-batch", "flood")] == [0, 1, 1]
    assert FLOOD.hostile_pace > NOISY.hostile_pace
    assert key_id("lepo-abc123-secret") == "abc123"


def test_the_ledger_tells_whose_grades_were_learned_how_stale_and_why_others_were_not(world: World) -> None:
    capped = world.with_settings(key_share=0.5, baseline="batch")
    late = capped.ask([f"late {i}" for i in range(5)])
    capped.grade(capped.ask([f"flood {i}" for i in range(30)]), lambda _: 1.0, "flooder", keyed=True)
    capped.grade(capped.ask([f"honest {i}" for i in range(10)]), even, "honest", keyed=True)
    assert learn(capped.context) == "promoted"
    capped.grade(late, even, "honest", keyed=True)
    capped.grade(capped.ask([f"again {i}" for i in range(8)]), even, "other", keyed=True)
    assert learn(capped.context) == "promoted"
    capped.grade(capped.ask(["too few"]), even, "honest", keyed=True)
    with world.store.session() as session:
        found = read_ledger(session, [capped.key("flooder")])
        claims = session.scalars(select(func.count()).where(Claim.outcome == "learned")).one()
    assert found["skipped"] == {}
    assert found["largest_key_share"] == pytest.approx(0.5)
    assert found["in_batches"] == claims
    assert 1 / 3 <= found["hostile_share_in_batches"] <= 0.5
    assert found["baselines"] == {"batch": claims}
    assert found["staleness"]["1"] >= 5, "what was asked of the version before, and what waited"
    assert (found["jobs"], found["verdicts"]) == (2, {"promoted": 2})
    assert found["waiting"] == 54 - claims, "what is over a key's share waits"


def test_an_answer_that_the_server_graded_is_charged_to_who_asked(world: World) -> None:
    named = world.with_settings(baseline="batch", key_share=0.5)
    for asker, operation in (("one", "eq"), ("two", "ne")):
        grader = {"type": "string_check", "reference": "what nobody says", "operation": operation}
        named.ask([f"{asker} {i}" for i in range(10)], grader=grader, asker=asker)
    while grade(named.context):
        pass
    assert learn(named.context) == "promoted"
    with world.store.session() as session:
        assert read_ledger(session, [named.key("one")])["hostile_share_in_batches"] == 0.5


def trial(name: str, gain: float, *, share: float = 0.1) -> dict[str, Any]:
    points = [
        {"grades": 0, "accuracy": 0.4, "low": 0.3, "high": 0.5, "version": 0},
        {"grades": 80, "accuracy": 0.4 + gain, "low": 0.3 + gain, "high": 0.5 + gain, "version": 1},
    ]
    service: Mapping[str, Any] = {
        "jobs": 0 if name == "control" else 2,
        "verdicts": {"promoted": 2},
        "baselines": {"batch": 70},
        "in_batches": 70,
        "hostile_share_in_batches": 0.03,
        "largest_key_share": share,
        "skipped": {"stale": 7},
        "staleness": {"0": 60, "1": 10},
        "waiting": 3,
    }
    users = {"answers": 100, "grades": 80, "flipped": 8, "hostile": 4, "unsaid": 20, "failed": 0}
    return {
        "condition": asdict(CONDITIONS[name]),
        "points": points,
        "gain": gain,
        "users": users,
        "service": service,
        "seconds": 1.0,
    }


def test_the_report_judges_what_was_run_and_nothing_else(tmp_path: Path) -> None:
    trials = [trial("clean-batch", 0.2), trial("noisy-batch", -0.02, share=0.12)]
    report = report_of(trials, SETTINGS, MACHINE)
    met = {row["key"]: row["met"] for row in report["bounds"]}
    assert met == {"clean_gain": True, "noisy_gain": False, "key_share_over_cap": False, "failed": True}
    page = write_page(report)
    assert "+20.0 points" in page
    assert "7 stale" in page
    assert "0: 60, 1: 10" in page
    draw(tmp_path / "pictures" / "online.png", trials)
    assert (tmp_path / "pictures" / "online.png").stat().st_size > 1000


def test_a_condition_is_run_once_and_recalled_under_the_same_plan(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[str] = []

    def pretend(condition: Any, plan: Plan, tell: Any) -> dict[str, Any]:
        ran.append(f"{condition.name}/{plan.problems}")
        return trial(condition.name, 0.2)

    monkeypatch.setattr("benchmarks.online.trial.try_condition", pretend)
    arguments = ["--directory", str(tmp_path / "kept"), "--docs", str(tmp_path), "--json", "--grades", "80"]
    for more in (["--conditions", "clean-batch"], ["--conditions", "clean-batch,control"], ["--problems", "50"]):
        done = CliRunner().invoke(command, [*arguments, *more, *(["--conditions", "control"] if "50" in more else [])])
        assert done.exit_code == 0, done.output
        assert json.loads(done.output.splitlines()[-1])["benchmark"] == "online"
    assert ran == ["clean-batch/200", "control/200", "control/50"]
    assert (tmp_path / "online.md").read_text().startswith("# Learning from live traffic")
    assert CliRunner().invoke(command, ["--conditions", "nonsense"]).exit_code == 2
