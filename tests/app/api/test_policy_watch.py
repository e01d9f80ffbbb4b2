"""The served policy changes under running answers: nobody is aborted, every answer belongs to one version."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from app.api.policy.bell import CHANNEL
from app.stack.redis import client_url
from app.store.checkpoints import by_version
from app.store.policy_life import promote, rollback
from app.store.swaps import list_swaps
from app.store.tables import Swap
from tests.app.api.live import Live, new_checkpoint, served, wait_for
from training.models.policy import fingerprint


@pytest.fixture
def alone(database_url: str, model_dir: Path, tmp_path: Path) -> Iterator[Live]:
    """A server of its own, without Redis."""
    with served(database_url, model_dir, tmp_path) as server:
        yield server


def serve_version(live: Live, version: int) -> None:
    with live.store.session() as session:
        promote(session, by_version(session, version).id, "test", "test")


def swaps(live: Live) -> list[Swap]:
    with live.store.session() as session:
        return list_swaps(session)


def test_a_swap_under_streams_breaks_none_of_them(alone: Live) -> None:
    versions = [new_checkpoint(alone, seed=seed) for seed in (1, 2)]
    stop = threading.Event()
    answered: list[dict[str, Any]] = []
    failed: list[str] = []

    def ask() -> None:
        while not stop.is_set():
            response = alone.chat(max_tokens=30, ignore_eos=True, n=2, seed=None)
            if response.status_code == 200:
                answered.extend(response.json()["choices"])
            else:
                failed.append(response.text)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for version in (*versions, 0, versions[0]):
        serve_version(alone, version)
        wait_for(lambda version=version: alone.engine.version == version)
        count = len(answered)
        wait_for(lambda count=count: len(answered) > count + 6)
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []
    assert {choice["policy_version"] for choice in answered} == {0, *versions}
    sample = alone.http("admin").get("/v1/interactions", params={"limit": 1000}).json()["data"]
    assert {row["learnable"] for row in sample} == {True}
    wait_for(lambda: len(swaps(alone)) == 4)
    assert [(swap.from_version, swap.to_version) for swap in reversed(swaps(alone))] == [
        (0, versions[0]),
        (versions[0], versions[1]),
        (versions[1], 0),
        (0, versions[0]),
    ]
    live_weights = fingerprint(alone.engine._lanes.serving.policy.model)
    with alone.store.session() as session:
        assert by_version(session, versions[0]).digest == live_weights == swaps(alone)[0].fingerprint


def test_a_checkpoint_that_does_not_verify_is_refused_and_the_old_one_goes_on(alone: Live) -> None:
    broken = new_checkpoint(alone, seed=3, broken=True)
    serve_version(alone, broken)
    wait_for(lambda: [swap.status for swap in swaps(alone)] == ["failed"])
    assert alone.answer()["choices"][0]["policy_version"] == 0
    (attempt,) = swaps(alone)
    assert (attempt.to_version, attempt.from_version) == (broken, 0)
    assert "verify" in (attempt.error or "")
    time.sleep(1.5)
    assert len(swaps(alone)) == 1, "a version that failed must not be tried in a loop"
    good = new_checkpoint(alone, seed=4)
    serve_version(alone, good)
    wait_for(lambda: alone.engine.version == good)


def test_the_bell_is_quicker_than_the_clock_and_survives_redis(
    database_url: str, model_dir: Path, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.api.policy.watch.LOOK_S", 60.0)
    with (
        redis.Redis.from_url(client_url(redis_url)) as bell,
        served(database_url, model_dir, tmp_path, redis_url=client_url(redis_url)) as live,
    ):
        wait_for(lambda: dict(bell.pubsub_numsub(CHANNEL))[CHANNEL.encode()] == 1)
        first = new_checkpoint(live, seed=5)
        serve_version(live, first)
        begun = time.monotonic()
        bell.publish(CHANNEL, "changed")
        wait_for(lambda: live.engine.version == first)
        assert time.monotonic() - begun < 5
        bell.client_kill_filter(_type="pubsub")
        wait_for(lambda: dict(bell.pubsub_numsub(CHANNEL))[CHANNEL.encode()] == 1)
        with live.store.session() as session:
            rollback(session, "test")
        bell.publish(CHANNEL, "changed")
        wait_for(lambda: live.engine.version == 0)


def test_a_second_server_serves_what_the_first_one_registered(
    database_url: str, model_dir: Path, tmp_path: Path
) -> None:
    with served(database_url, model_dir, tmp_path) as one:
        version = new_checkpoint(one, seed=6)
        serve_version(one, version)
        wait_for(lambda: one.engine.version == version)
        with served(database_url, model_dir, tmp_path) as two:
            assert two.engine.version == version
            assert two.answer(seed=9)["choices"][0]["message"] == one.answer(seed=9)["choices"][0]["message"]
