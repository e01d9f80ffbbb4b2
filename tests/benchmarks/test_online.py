"""Learning from live traffic: users grade as their condition says, and figures are read from the database."""

import asyncio
import json
import random
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import httpx
import pytest
import torch
from click.testing import CliRunner
from sqlalchemy import func, select

from app.store import checkpoints
from app.store.connect import Store
from app.store.tables import Claim
from benchmarks.online.command import chosen_of, command, report_of, seeds_of
from benchmarks.online.conditions import (
    CLEAN,
    CONDITIONS,
    CORRECTIONS,
    FLOOD,
    GRADERS,
    NOISY,
    SESSIONS,
    THUMBS_UP,
    settings_of,
)
from benchmarks.online.crowd import Crowd, User, is_right, opinion
from benchmarks.online.episode import Episode, NothingBad, play, poisoned_share, read_row
from benchmarks.online.later import Later
from benchmarks.online.ledger import read_ledger
from benchmarks.online.page import write_page
from benchmarks.online.picture import draw
from benchmarks.online.trial import Plan, hostile_users, key_id
from tests.worker.world import World, even, make_model, make_world
from training.models.policy import load_policy
from training.tasks.families import generate
from training.tasks.problem import Problem
from training.tasks.splits import Split
from worker.grade import grade
from worker.learn import learn
from worker.trial import look

GRADER = {"type": "string_check", "reference": "4", "operation": "eq"}
PROBLEM = Problem("2 + 2", "4", GRADER, "sums", 1)
LATE_TRIALS = (
    (0, "clean-batch", 0.5),
    (0, "late", 0.45),
    (0, "bad-update", 0.4),
    (1, "clean-batch", 0.4),
    (1, "late", 0.28),
    (1, "bad-update", 0.4),
)
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
    answers: list[httpx.Request],
    manners: Any = CLEAN,
    *,
    graded: int = 201,
    problem: Problem = PROBLEM,
    delay_s: float = 0.0,
    honest_only: bool = False,
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

    users = [user(0, hostile=not honest_only), user(1, hostile=False)]
    return Crowd(users, [problem], manners, seed=0, delay_s=delay_s)


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
    crowd = crowd_against(requests, delay_s=0.05, graded=500)
    asyncio.run(for_a_while(crowd, 0.1))
    assert crowd.counts.grades == 0
    assert crowd.counts.failed == crowd.counts.answers > 2
    assert "HTTP 500" in crowd.counts.errors[0]


def test_grades_later_than_the_end_never_come_and_are_counted() -> None:
    requests: list[httpx.Request] = []
    crowd = crowd_against(requests, delay_s=1000.0)

    async def ask_and_wait() -> None:
        living = asyncio.create_task(crowd.live())
        crowd.doors.set()
        await asyncio.sleep(0.1)
        crowd.doors.clear()
        await asyncio.sleep(0.05)
        await crowd.last_grades(lambda _: None, limit_s=0.2)
        living.cancel()
        await asyncio.wait([living])

    asyncio.run(ask_and_wait())
    assert crowd.counts.never == crowd.counts.answers > 2
    assert crowd.counts.grades == 0


def test_the_clock_of_late_grades_stands_while_nobody_may_ask() -> None:
    going, done = False, []

    async def try_it() -> None:
        nonlocal going
        later = Later(lambda: going)
        later.add(0.1, lambda: done.append("second"))
        later.add(0.0, lambda: done.append("first"))
        running = asyncio.create_task(later.run())
        await asyncio.sleep(0.3)
        assert done == ["first"], "due at once, whatever the clock does"
        going = True
        await asyncio.sleep(0.4)
        assert done == ["first", "second"]
        later.add(1000.0, lambda: None)
        assert (len(later), later.drop(), len(later)) == (1, 1, 0)
        running.cancel()
        await asyncio.wait([running])

    asyncio.run(try_it())


def test_in_a_time_of_poison_every_grade_says_the_opposite_and_sessions_have_a_few_questions() -> None:
    requests: list[httpx.Request] = []
    crowd = crowd_against(requests, SESSIONS, honest_only=True)
    crowd.inverted = True

    async def ask_and_hear() -> None:
        hearing = asyncio.create_task(crowd.graded(5))
        await for_a_while(crowd, 0.4)
        assert hearing.done()

    asyncio.run(ask_and_hear())
    assert crowd.counts.right == crowd.counts.grades == crowd.counts.flipped > 10
    bodies = [json.loads(request.content) for request in requests]
    assert {body["value"] for body in bodies if "value" in body} == {0.0}
    sessions = [body["metadata"]["session"] for body in bodies if "metadata" in body]
    assert 1 < len(set(sessions)) < len(sessions)


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
    assert settings_of(CONDITIONS["bad-update"])["LEPO_CANARY_SHARE"] == "0.05"
    assert "LEPO_CANARY_SHARE" not in settings_of(CONDITIONS["late"])
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


def test_the_canary_takes_a_poisoned_update_back_and_the_bench_says_who_saw_it(world: World) -> None:
    cautious = world.with_settings(baseline="batch", canary_share=0.05, freeze_after=1, group_grace=0)
    honest = cautious.ask([f"honest {i}" for i in range(10)])
    cautious.grade(honest, even, "users", keyed=True)
    since = datetime.now(UTC)
    cautious.grade(cautious.ask([f"poison {i}" for i in range(30)]), lambda one: 1.0 - even(one), "users", keyed=True)
    assert learn(cautious.context) == "canary"
    with world.store.session() as session:
        bad = checkpoints.by_version(session, 1)
        assert poisoned_share(session, 1, since) == pytest.approx(0.75)
        assert read_row(session, Episode(1, 0.75))["rolled_back"] is False
    poisoned = load_policy(bad.path, version=1, dtype=torch.float32, device="cpu")
    for turn in range(30):
        cautious.grade(cautious.ask([f"seen {turn}"], policy=poisoned), lambda _: 0.0, "users", keyed=True)
        cautious.grade(cautious.ask([f"beside {turn} {i}" for i in range(4)]), lambda _: 1.0, "users", keyed=True)
        if look(world.store, cautious.settings, "redis+socket:///nowhere"):
            break
    with world.store.session() as session:
        row = read_row(session, Episode(1, 0.75))
    assert (row["rolled_back"], row["by"], row["learned_from"]) == (True, "trial", 0)
    assert row["requests_of_it"] == turn + 1 < 30
    assert row["requests_meanwhile"] == 5 * turn + 5
    assert row["served_share"] == pytest.approx(0.2)
    assert row["seconds"] > 0
    assert (row["reward"], row["reward_beside"]) == (0.0, 1.0)
    assert learn(cautious.context) == "idle", "learning is frozen until somebody has looked"


def admin_of(overviews: list[dict[str, Any]], asked: list[str]) -> httpx.AsyncClient:
    """Answer with one overview after another, the last one for ever."""

    def serve(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.method} {request.url.path}")
        if request.method == "POST":
            return httpx.Response(200, json={})
        return httpx.Response(200, json=overviews.pop(0) if len(overviews) > 1 else overviews[0])

    return httpx.AsyncClient(transport=httpx.MockTransport(serve), base_url="http://service")


def seen(job: str | None = None, undecided: Mapping[str, str] | None = None, frozen: str | None = None) -> Any:
    return {"current_job": job and {"id": job}, "undecided": dict(undecided or {}), "frozen": frozen}


def test_an_episode_promotes_what_is_good_poisons_one_update_and_then_only_watches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmarks.online.episode.LOOK_S", 0.001)
    monkeypatch.setattr("benchmarks.online.episode.poisoned_share", lambda *_: 0.9)
    requests: list[str] = []
    good = [one for version in "123" for one in (seen("good"), seen(None, {version: "canary"}))]
    poison = [seen("last good"), seen("last good"), seen(None, {"4": "canary"}), seen("bad"), seen("bad")]
    end = [seen(None, {"5": "canary"}), seen(None, {"5": "canary"}), seen(frozen="refused")]
    crowd = crowd_against([])
    store = MagicMock()
    episode = asyncio.run(play(crowd, admin_of([*good, *poison, *end], requests), store, lambda _: None))
    assert episode == Episode(5, 0.9)
    assert [one for one in requests if one.startswith("POST")] == [
        f"POST /v1/admin/checkpoints/{version}/promote" for version in (1, 2, 3, 4)
    ]
    assert not crowd.inverted
    assert not crowd.doors.is_set()
    with pytest.raises(NothingBad, match="refused"):
        asyncio.run(play(crowd, admin_of([*good, *poison, seen(frozen="a gate")], []), store, lambda _: None))


def trial(name: str, gain: float, *, share: float = 0.1, seed: int = 0) -> dict[str, Any]:
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
    users = {"answers": 100, "grades": 80, "flipped": 8, "hostile": 4, "unsaid": 20, "never": 2, "failed": 0}
    bad = {
        "served_share": 0.04 + seed / 100,
        "rolled_back": seed != 9,
        "by": "trial",
        "requests_of_it": 20,
        "requests_meanwhile": 500,
        "seconds": 30.0,
        "poisoned_share": 0.97,
        "reward": 0.3,
        "reward_beside": 0.9,
    }
    return {
        "condition": asdict(CONDITIONS[name]),
        "seed": seed,
        "asked_s": 40.0,
        "update_interval_s": 4.0,
        "delay_s": 40.0,
        "waited_for_grades_s": 120.0,
        "at_rest": "too few grades",
        "rollback": None,
        "bad_update": bad if name == "bad-update" else None,
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


def test_late_gains_are_shares_of_the_clean_one_of_their_seed_and_the_worst_bad_update_counts() -> None:
    trials = [trial(name, gain, seed=seed) for seed, name, gain in LATE_TRIALS]
    report = report_of(trials, {**SETTINGS, "seeds": [0, 1]}, MACHINE)
    assert report["late_gain_share_by_seed"] == {"0": pytest.approx(0.9), "1": pytest.approx(0.7)}
    assert report["late_gain_share"] == pytest.approx(0.8)
    assert report["bad_update_served_share"] == pytest.approx(0.05)
    assert report["bad_update_rolled_back"] is True
    assert report["bad_update_by_seed"]["1"]["requests_of_it"] == 20
    page = write_page(report)
    assert "| `late`, seed 1 | 40 s | 40 s, 100 answers | 120 s | 80 | 2 | too few grades |" in page
    assert "| `bad-update`, seed 0 | 97% of its answers | 0.30, 0.90 | 20 | 500 (4.0%) | 30 | by the service" in page
    met = {row["key"]: row["met"] for row in report["bounds"]}
    assert met["bad_update_rolled_back"]
    assert met["bad_update_served_share"]
    stayed = report_of([trial("bad-update", 0.3, seed=9)], SETTINGS, MACHINE)
    assert not {row["key"]: row["met"] for row in stayed["bounds"]}["bad_update_rolled_back"]


def test_two_branches_count_only_where_something_was_rolled_back() -> None:
    clean, two = trial("clean-batch", 0.5), trial("late-two-branches", 0.45)
    assert "late_two_branches_gain_share" not in report_of([clean, two], SETTINGS, MACHINE)
    report = report_of([clean, two | {"rollback": [6, 1]}], SETTINGS, MACHINE)
    assert report["late_two_branches_gain_share"] == pytest.approx(0.9)


def test_parts_are_put_together_if_they_are_alike(tmp_path: Path) -> None:
    def part(name: str, *trials: dict[str, Any], **differing: Any) -> str:
        seeds = sorted({int(one["seed"]) for one in trials})
        report = report_of(trials, {**SETTINGS, "seeds": seeds, **differing}, MACHINE | differing)
        (tmp_path / name).write_text(json.dumps(report))
        return str(tmp_path / name)

    clean, other = trial("clean-batch", 0.5), trial("clean-batch", 0.4, seed=1)
    first = part("first", clean, trial("late", 0.45))
    second = part("second", clean, other, trial("late", 0.3, seed=1))
    out = tmp_path / "out.json"
    done = CliRunner().invoke(command, ["--merge", first, "--merge", second, "--out", str(out)])
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text())
    assert report["settings"]["seeds"] == [0, 1]
    assert report["late_gain_share"] == pytest.approx((0.9 + 0.75) / 2)
    for name, differing in (("code", {"code": "other"}), ("processor", {"processor": "another"})):
        refused = CliRunner().invoke(command, ["--merge", first, "--merge", part(name, other, **differing)])
        assert refused.exit_code == 2
        assert name in refused.output
    again = CliRunner().invoke(command, ["--merge", first, "--merge", part("again", trial("late", 0.1))])
    assert again.exit_code == 2
    assert "result of late, seed 0" in again.output


def test_what_late_conditions_are_measured_by_is_run_first() -> None:
    assert chosen_of("late,control") == ["clean-batch", "late", "control"]
    assert chosen_of("late,clean-batch") == ["clean-batch", "late"]
    assert chosen_of("control,control") == ["control"]
    assert seeds_of("0,2,0") == [0, 2]
    assert CliRunner().invoke(command, ["--seeds", "0,x"]).exit_code == 2


def test_a_condition_is_run_once_and_recalled_under_the_same_plan(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[str] = []

    def pretend(condition: Any, plan: Plan, tell: Any, interval_s: float) -> dict[str, Any]:
        ran.append(f"{condition.name}/{plan.problems}" + (f"/{interval_s:g}" if interval_s else ""))
        return trial(condition.name, 0.2, seed=plan.seed)

    monkeypatch.setattr("benchmarks.online.trial.try_condition", pretend)
    arguments = ["--directory", str(tmp_path / "kept"), "--docs", str(tmp_path), "--json", "--grades", "80"]
    for more in (["--conditions", "clean-batch"], ["--conditions", "clean-batch,control"], ["--problems", "50"]):
        done = CliRunner().invoke(command, [*arguments, *more, *(["--conditions", "control"] if "50" in more else [])])
        assert done.exit_code == 0, done.output
        assert json.loads(done.output.splitlines()[-1])["benchmark"] == "online"
    assert ran == ["clean-batch/200", "control/200", "control/50"]
    late = ["--conditions", "late", "--seeds", "0,1"]
    assert CliRunner().invoke(command, [*arguments, *late]).exit_code == 0
    assert ran[3:] == ["late/200/4", "clean-batch/200", "late/200/4"], "and the clean one of seed 0 was there"
    monkeypatch.setattr(
        "benchmarks.online.trial.try_condition", lambda *given: pretend(*given) | {"update_interval_s": None}
    )
    stuck = CliRunner().invoke(command, [*arguments, "--conditions", "late", "--fresh"])
    assert stuck.exit_code == 1
    assert "promoted no update" in stuck.output
    assert (tmp_path / "online.md").read_text().startswith("# Learning from live traffic")
    assert CliRunner().invoke(command, ["--conditions", "nonsense"]).exit_code == 2
