"""The worker and beat as they are deployed: real processes, a real Postgres, a real Redis that dies in between."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from app.stack.redis import client_url
from app.store.connect import Store
from tests.worker.test_celery_app import Bell, until
from tests.worker.world import World, make_world
from worker.publish import CHANNEL

NE = {"type": "string_check", "reference": "no byte soup is this", "operation": "ne"}


@pytest.fixture
def bell(tmp_path: Path) -> Iterator[Bell]:
    made = Bell(tmp_path / "redis")
    made.directory.mkdir()
    made.start_redis()
    yield made
    made.close()


@pytest.fixture
def deployed(store: Store, model_dir: Path, tmp_path: Path, bell: Bell) -> World:
    return make_world(store, model_dir, tmp_path / "var", bell.server.url())


def command(name: str, world: World, bell: Bell, database_url: str) -> subprocess.Popen[bytes]:
    """Start `lepo worker` or `lepo beat` with the world's settings in its environment."""
    names = ("var_dir", "min_grades", "max_grades", "group_grace", "latent_length", "max_completion_tokens")
    more = ("learning_rate", "weight_decay", "max_length", "slots", "gate_no_signal", "max_divergence")
    env = {f"LEPO_{field.upper()}": str(getattr(world.settings, field)) for field in (*names, *more)}
    env |= {
        "LEPO_DATABASE_URL": database_url,
        "LEPO_REDIS_URL": bell.server.url(),
        "LEPO_LEARN_INTERVAL": "0.3",
        "LEPO_GRADE_INTERVAL": "0.3",
        "LEPO_GATE_NO_SIGNAL": "promote",
    }
    with (bell.directory / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", name], env={**os.environ, **env}, stdout=log, stderr=log
        )
    bell.processes.append(process)
    return process


def test_beat_lets_the_worker_grade_and_learn_before_and_after_redis_dies(
    deployed: World, bell: Bell, database_url: str
) -> None:
    world = deployed
    worker = command("worker", world, bell, database_url)
    beat = command("beat", world, bell, database_url)
    with redis.Redis.from_url(client_url(bell.server.url())) as client, client.pubsub() as heard:
        heard.subscribe(CHANNEL)
        world.samples(groups=4)
        until(lambda: world.serving().version == 1, 60)
        until(lambda: heard_version(heard) == "1")

    bell.kill_redis()
    pending = world.ask(["graded by the server"], choices=2, grader=NE)
    bell.start_redis()

    until(lambda: graded(world) == len(pending), 60)
    world.samples(groups=4)
    until(lambda: world.serving().version == 2, 60)
    assert worker.poll() is None

    for process in (beat, worker):
        process.send_signal(signal.SIGTERM)
    assert [process.wait(timeout=30) for process in (beat, worker)] == [0, 0]
    assert {job.status for job in world.jobs()} == {"succeeded"}


def test_the_alarm_of_last_resort_ends_a_worker_and_its_log_says_where_it_hung(
    deployed: World, bell: Bell, database_url: str
) -> None:
    worker = command("worker", deployed, bell, database_url)
    until(lambda: "listens for learn" in bell.log("worker"), 60)
    worker.send_signal(signal.SIGALRM)
    assert worker.wait(timeout=30) == -signal.SIGALRM
    assert "most recent call first" in bell.log("worker")


def heard_version(channel: redis.client.PubSub) -> str:
    """Read the next message of a channel, if there is one."""
    message = channel.get_message(ignore_subscribe_messages=True, timeout=0.1)
    return "" if message is None else message["data"].decode()


def graded(world: World) -> int:
    from sqlalchemy import func, select

    from app.store.tables import Grade

    with world.store.session() as session:
        return session.scalars(select(func.count()).where(Grade.grader_kind == "string_check")).one()
