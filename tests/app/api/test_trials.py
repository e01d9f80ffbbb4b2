"""A policy on trial beside the serving one: who is served by it, what is stored, and how it comes and goes."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from app.api.answering.trial_routing import OnTrial, falls_in, unit_of
from app.store import checkpoints, policy_life
from app.store.claims import fresh
from app.store.grades import Entry, add_grade
from app.store.policy_life import Event
from app.store.swaps import list_swaps
from app.store.tables import Checkpoint, Interaction
from tests.app.api.live import Live, new_checkpoint, served, wait_for

NE = {"type": "string_check", "reference": "no answer is this", "operation": "ne"}
Serve = Callable[..., AbstractContextManager[Live]]


@pytest.fixture
def serve(database_url: str, model_dir: Path, tmp_path: Path) -> Serve:
    """Run a server with settings of its own, all on one database."""

    @contextmanager
    def run(**settings: Any) -> Iterator[Live]:
        with served(database_url, model_dir, tmp_path, **settings) as live:
            yield live

    return run


def put(live: Live, version: int, event: Event) -> None:
    with live.store.session() as session:
        policy_life.move(session, checkpoints.by_version(session, version).id, event, "test", "test")


def ready(live: Live, version: int) -> None:
    def seen() -> bool:
        trial = live.httpd.config.app.state.server.trial  # type: ignore[union-attr]
        return trial is not None and trial.version == version

    wait_for(seen)


def version_of(live: Live, headers: dict[str, str] | None = None, **body: Any) -> int:
    asked = {"model": "lepo", "messages": [{"role": "user", "content": "2 + 3"}], "max_tokens": 4, **body}
    response = live.http().post("/v1/chat/completions", json=asked, headers=headers or {})
    assert response.status_code == 200, response.text
    return int(response.json()["choices"][0]["policy_version"])


def of_session(live: Live, name: str) -> int:
    return version_of(live, {"X-Session-Id": name})


def stored(live: Live) -> list[Interaction]:
    with live.store.session() as session:
        return list(session.scalars(select(Interaction).order_by(Interaction.id)))


def metrics(live: Live) -> str:
    return live.http(None).get("/metrics").text


def test_a_share_of_sessions_is_served_by_a_canary_and_the_same_on_every_server(serve: Serve) -> None:
    with serve(canary_share=0.3) as one, serve(canary_share=0.3) as two:
        canary = new_checkpoint(one)
        put(one, canary, "canary")
        ready(one, canary)
        ready(two, canary)
        names = [f"session {index}" for index in range(60)]
        first = [of_session(one, name) for name in names]
        assert [of_session(two, name) for name in reversed(names)] == first[::-1]
        assert set(first) == {0, canary}
        assert 6 <= first.count(canary) <= 32
        rows = stored(one)
        with one.store.session() as session:
            by_id = {row.id: row.version for row in session.scalars(select(Checkpoint))}
        assert [by_id[row.checkpoint_id] for row in rows] == [row.policy_version for row in rows]
        assert [row.policy_version for row in rows][:60] == first
        assert 'lepo:version_answers_total{policy_version="0",role="serving"}' in metrics(one)
        assert f'lepo:version_answers_total{{policy_version="{canary}",role="candidate"}}' in metrics(one)


def test_a_session_is_named_by_header_or_metadata_or_user_and_else_by_key(serve: Serve) -> None:
    with serve(canary_share=0.5) as live:
        canary = new_checkpoint(live)
        put(live, canary, "canary")
        ready(live, canary)
        for name in [f"who {index}" for index in range(12)]:
            by_header = of_session(live, name)
            assert version_of(live, metadata={"session": name}) == by_header
            assert (
                version_of(live, {"X-Session-Id": name}, user="another", metadata={"session": "another"}) == by_header
            )
        by_user = {version_of(live, user=f"user {index}") for index in range(12)}
        assert by_user == {0, canary}
        assert len({version_of(live) for _ in range(12)}) == 1, "one key, one policy"
        streamed = live.http().post(
            "/v1/completions",
            json={"model": "lepo", "prompt": ["1", "2"], "max_tokens": 2, "user": "user 3"},
        )
        assert len({choice["policy_version"] for choice in streamed.json()["choices"]}) == 1


def test_sessions_users_and_keys_of_one_name_are_apart_and_shares_are_as_wide_as_they_say() -> None:
    units = {unit_of("a", "a", "k"), unit_of(None, "a", "k"), unit_of(None, None, "k"), unit_of(None, None, None)}
    assert len(units) == 4
    assert unit_of("a", "a", "l") in units, "a session goes on under another key"
    trial = OnTrial(UUID(int=1), 3, "canary")
    drawn = sum(falls_in(trial, f"unit {index}", 0.1) for index in range(20_000))
    assert 1_800 < drawn < 2_200
    other = OnTrial(UUID(int=2), 4, "canary")
    both = sum(
        falls_in(trial, f"unit {index}", 0.1) and falls_in(other, f"unit {index}", 0.1) for index in range(20_000)
    )
    assert both < 300, "another trial draws other units"
    assert not any(falls_in(trial, f"unit {index}", 0.0) for index in range(1000))


def test_a_canary_is_off_unless_a_share_is_set(serve: Serve) -> None:
    with serve() as live:
        canary = new_checkpoint(live)
        put(live, canary, "canary")
        time.sleep(2.5)
        assert live.engine.stats().versions == (0,)
        assert {of_session(live, f"s{index}") for index in range(20)} == {0}


def test_a_canary_that_is_promoted_or_leaves_is_followed_without_reading_anything_again(serve: Serve) -> None:
    with serve(canary_share=0.5) as live:
        first, second = new_checkpoint(live, seed=1), new_checkpoint(live, seed=2)
        put(live, first, "canary")
        ready(live, first)
        drawn = next(name for name in map(str, range(100)) if of_session(live, name) == first)
        put(live, first, "roll_back")
        wait_for(lambda: of_session(live, drawn) == 0)
        put(live, second, "canary")
        ready(live, second)
        with live.store.session() as session:
            policy_life.promote(session, checkpoints.by_version(session, second).id, "test", "test")
        wait_for(lambda: live.engine.version == second)
        wait_for(lambda: bool(swaps(live)))
        with live.store.session() as session:
            policy_life.rollback(session, "test")
        wait_for(lambda: live.engine.version == 0)
        wait_for(lambda: len(swaps(live)) == 2)
        assert [(swap.from_version, swap.to_version, swap.staged_ms) for swap in reversed(swaps(live))] == [
            (0, second, 0.0),
            (second, 0, 0.0),
        ]
        assert {of_session(live, f"s{index}") for index in range(20)} == {0}


def test_a_rollback_waits_for_an_answer_on_an_earlier_version_no_longer_than_is_set(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer runs on neither the policy that is rolled back nor the one that is rolled back to."""
    with serve(rollback_patience=0.2) as live:
        first, second = new_checkpoint(live, seed=1), new_checkpoint(live, seed=2)
        promote(live, first)
        lane = live.engine._lanes.serving
        step = lane.step

        def slowly() -> None:
            time.sleep(0.05 if lane.running else 0)
            step()

        monkeypatch.setattr(lane, "step", slowly)
        with ThreadPoolExecutor(1) as pool:
            oldest = pool.submit(live.answer, max_tokens=220, ignore_eos=True)
            wait_for(lambda: live.engine.stats().running == 1)
            promote(live, second)
            assert live.engine.stats().versions == (second, first)
            with live.store.session() as session:
                policy_life.rollback(session, "test", checkpoints.by_version(session, 0).id)
            wait_for(lambda: live.engine.version == 0)
            choice = oldest.result()["choices"][0]
        assert (choice["finish_reason"], choice["policy_version"]) == ("abort", first)
        (row,) = stored(live)
        assert (row.finish_reason, row.learnable, row.unlearnable_reason) == ("deadline", False, "deadline")


def promote(live: Live, version: int) -> None:
    with live.store.session() as session:
        policy_life.promote(session, checkpoints.by_version(session, version).id, "test", "test")
    wait_for(lambda: live.engine.version == version)


def swaps(live: Live) -> list[Any]:
    with live.store.session() as session:
        return list_swaps(session)


def test_a_server_that_cannot_load_the_canary_serves_everybody_with_what_serves(serve: Serve) -> None:
    with serve(canary_share=0.9) as live:
        broken = new_checkpoint(live, broken=True)
        put(live, broken, "canary")
        wait_for(lambda: [(swap.to_version, swap.status) for swap in swaps(live)] == [(broken, "failed")])
        assert {of_session(live, f"s{index}") for index in range(30)} == {0}


def test_a_share_of_graded_prompts_is_answered_again_unseen(serve: Serve) -> None:
    with serve(shadow_share=0.5) as live:
        shadow = new_checkpoint(live)
        put(live, shadow, "shadow")
        ready(live, shadow)
        asked = [live.answer(grader=NE, seed=index, n=2, user="somebody") for index in range(24)]
        for _ in range(5):
            live.answer()
        assert {choice["policy_version"] for one in asked for choice in one["choices"]} == {0}
        wait_for(lambda: any(row.shadow_of for row in stored(live)))
        time.sleep(1)
        shadows = [row for row in stored(live) if row.shadow_of is not None]
        assert 4 <= len(shadows) <= 20
        assert {row.shadow_of for row in shadows} <= {one["id"] for one in asked}
        for row in shadows:
            assert (row.policy_version, row.grader, row.grading_state) == (shadow, NE, "pending")
            assert (row.learnable, row.unlearnable_reason, row.choice, row.group_size) == (False, "shadow", 0, 1)
        with live.store.session() as session:
            for row in shadows:
                add_grade(session, row.id, Entry("string_check", "string_check", value=1.0))
            assert list(session.scalars(select(Interaction.id).where(fresh()))) == []
        everything = live.http("admin").get("/v1/interactions", params={"limit": 1000}).json()["data"]
        assert len(everything) == 24 * 2 + 5
        unseen = live.http("admin").get("/v1/interactions", params={"limit": 1000, "shadow": True}).json()["data"]
        assert {row["shadow_of"] for row in unseen} == {row.shadow_of for row in shadows}
        assert len(unseen) == len(shadows)


def test_an_operator_begins_a_trial_and_sees_how_it_stands(serve: Serve) -> None:
    with serve(canary_share=0.5) as live:
        first, second = new_checkpoint(live, seed=1), new_checkpoint(live, seed=2)
        admin = live.http("admin")
        begun = admin.post(f"/v1/admin/checkpoints/{first}/trial", json={"stage": "canary"})
        assert (begun.status_code, begun.json()["changed"], begun.json()["version"]) == (200, True, 0)
        again = admin.post(f"/v1/admin/checkpoints/{first}/trial", json={"stage": "canary"})
        assert (again.status_code, again.json()["changed"]) == (200, False)
        taken = admin.post(f"/v1/admin/checkpoints/{second}/trial", json={"stage": "canary"})
        assert (taken.status_code, f"Version {first} is in canary" in taken.text) == (409, True)
        ready(live, first)
        asked = [live.answer(user=f"user {index}") for index in range(12)]
        for one in asked:
            choice = one["choices"][0]
            value = float(choice["policy_version"] == 0)
            live.http().post(f"/v1/interactions/{choice['interaction_id']}/grades", json={"value": value})
        (trial,) = admin.get("/v1/admin/trials").json()["data"]
        assert (trial["stage"], trial["version"], trial["verdict"]) == ("canary", first, None)
        figures = trial["figures"]
        assert figures["graded"] + figures["graded_against"] == 12
        assert (figures["reward"], figures["reward_against"]) == (0.0, 1.0)
        assert admin.post(f"/v1/admin/checkpoints/{first}/discard").status_code == 200
        assert admin.get("/v1/admin/trials").json()["data"] == []
        assert live.http().get("/v1/admin/trials").status_code == 403


def test_a_shadow_is_off_unless_a_share_is_set(serve: Serve) -> None:
    with serve(canary_share=0.5) as live:
        shadow = new_checkpoint(live)
        put(live, shadow, "shadow")
        time.sleep(2.5)
        assert live.engine.candidate is None
        live.answer(grader=NE)
        time.sleep(0.5)
        assert [row.shadow_of for row in stored(live)] == [None]


def test_shadow_answers_never_take_a_slot_somebody_waits_for(serve: Serve) -> None:
    """Two slots, always asked for: what the live answers leave is what shadows get, and all live answers are whole."""
    with serve(shadow_share=1.0, slots=2, max_waiting=1) as live:
        shadow = new_checkpoint(live)
        put(live, shadow, "shadow")
        ready(live, shadow)
        for index in range(20):
            found = live.chat(grader=NE, seed=index, n=2, max_tokens=12, ignore_eos=True)
            assert found.status_code == 200
        assert {row.finish_reason for row in stored(live)} <= {"stop", "length"}


def test_an_admin_may_ask_either_version_and_nobody_else_may(serve: Serve) -> None:
    """To see them side by side: past the draw of a trial, and so not for users."""
    with serve(canary_share=0.9) as live:
        version = new_checkpoint(live)
        put(live, version, "canary")
        ready(live, version)
        admin, body = live.http("admin"), {"model": "lepo", "messages": [{"role": "user", "content": "2"}]}
        for wanted in (0, version):
            asked = admin.post("/v1/chat/completions", json=body, headers={"X-Policy-Version": str(wanted)})
            assert asked.json()["choices"][0]["policy_version"] == wanted
        absent = admin.post("/v1/chat/completions", json=body, headers={"X-Policy-Version": "7"})
        assert (absent.status_code, absent.json()["error"]["code"]) == (409, "not_resident")
        assert admin.post("/v1/chat/completions", json=body, headers={"X-Policy-Version": "x"}).status_code == 400
        asked = live.http().post("/v1/chat/completions", json=body, headers={"X-Policy-Version": "0"})
        assert asked.status_code == 403
