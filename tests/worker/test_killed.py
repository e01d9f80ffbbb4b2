"""kill -9 in every phase of an update: nothing is learned twice, nothing is lost, what serves is whole.

A trigger in the test's database holds the learner, a real process, at a chosen moment: it waits for an advisory lock
that the test has. When the learner is seen waiting it is killed, the lock is let go, and another learner goes on.
"""

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import Connection, text

from app.settings import Settings
from app.store.connect import open_store
from tests.worker.test_watchdog import until
from tests.worker.world import World
from training.models.checkpoint import verify
from training.models.policy import fingerprint
from worker import watchdog
from worker.learn import learn
from worker.resident import Context, Resident
from worker.watchdog import EXIT_CODE, arm

GATE = 424_242  # advisory lock that holds the learner
HOLD = f"""
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_advisory_xact_lock_shared({GATE}); RETURN NEW; END $$
"""
LEAVING = "BEFORE UPDATE ON jobs FOR EACH ROW WHEN (OLD.phase = '{}' AND NEW.phase IS DISTINCT FROM OLD.phase)"
MOMENTS = {
    "claim, before its commit": "BEFORE INSERT ON claims FOR EACH ROW",
    "claim": LEAVING.format("claim"),
    "batch": LEAVING.format("batch"),
    "update": LEAVING.format("update"),
    "gate": LEAVING.format("gate"),
    "publish": LEAVING.format("publish"),
    "settle, before its commit": "BEFORE INSERT ON transitions FOR EACH ROW",
}


def learn_once(settings: dict[str, Any], database_url: str) -> None:
    """What runs in the learner's process."""
    torch.set_num_threads(1)
    chosen = Settings.model_validate(settings)
    learn(Context(chosen, open_store(database_url), "redis+socket:///nowhere", Resident(chosen)))


def learn_without_memory_for_threads(settings: dict[str, Any], database_url: str) -> None:
    """What runs in a learner whose new threads die before their first line, as they do where no memory is left."""
    chosen = Settings.model_validate(settings)
    context = Context(chosen, open_store(database_url), "redis+socket:///nowhere", Resident(chosen), alarm=arm())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watchdog, "START_S", 0.5)
        patch.setattr(threading.Thread, "_bootstrap", lambda self: None)
        learn(context)


@pytest.fixture(scope="module")
def learners() -> multiprocessing.context.ForkServerContext:
    """Processes that start quickly: forked from one that has imported the worker and nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["worker.learn", "tests.worker.test_killed"])
    return context


@contextmanager
def held(world: World, moment: str) -> Iterator[Connection]:
    """Hold whoever comes to a moment, until the block ends."""
    with world.store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(HOLD))
        connection.execute(text(f"CREATE TRIGGER held {moment} EXECUTE FUNCTION hold()"))
        connection.execute(text(f"SELECT pg_advisory_lock({GATE})"))
        try:
            yield connection
        finally:
            connection.execute(text(f"SELECT pg_advisory_unlock({GATE})"))
            until(lambda: not busy(connection))
            connection.execute(text("DROP FUNCTION hold() CASCADE"))


def waits(connection: Connection) -> bool:
    """Whether somebody is held."""
    query = text(f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {GATE} AND NOT granted")
    return bool(connection.scalar(query))


def busy(connection: Connection) -> bool:
    """Whether a session of another process is inside a transaction."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'"
    )
    return bool(connection.scalar(query))


def start(context: multiprocessing.context.ForkServerContext, world: World, url: str) -> ForkServerProcess:
    process = context.Process(target=learn_once, args=(world.settings.model_dump(), url))
    process.start()
    return process


@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_9_at_any_moment_neither_loses_nor_doubles_anything(
    moment: str, world: World, database_url: str, learners: multiprocessing.context.ForkServerContext
) -> None:
    ids = set(world.samples(groups=4))
    with held(world, MOMENTS[moment]) as connection:
        learner = start(learners, world, database_url)
        until(lambda: waits(connection))
        learner.kill()
        learner.join()
    assert world.serving().version == 0, "nothing was promoted by half"
    assert {path.name for path in world.checkpoints_dir.iterdir()} <= {"v00000000", "v00000001"}

    until(lambda: learn(world.context) == "promoted")

    *lost, done = world.jobs()
    assert [(job.status, job.error) for job in lost] == [("failed", "worker lost")] * len(lost)
    assert len(lost) == (0 if moment.startswith("claim, before") else 1)
    assert done.status == "succeeded"
    claims = world.claims()
    assert set(claims) == ids, "every graded answer was claimed, once"
    assert {outcome for outcome, _ in claims.values()} <= {"learned", "skipped"}
    assert done.metrics["update"]["rollouts"] == world.reasons()["learned"]
    serving = world.serving()
    assert serving.version == 1
    assert sorted(path.name for path in world.checkpoints_dir.iterdir()) == ["v00000000", "v00000001"]
    assert verify(Path(serving.path)).fingerprint == serving.digest == fingerprint(world.policy().model)
    assert learn(world.context) == "idle"


def test_kill_9_after_fresh_groups_were_drawn_draws_them_again_and_spends_each_grade_once(
    world: World, database_url: str, learners: multiprocessing.context.ForkServerContext
) -> None:
    world = world.with_settings(resample=4)
    grader = {"type": "string_check", "reference": "a", "operation": "ilike"}
    ids = set(world.grade(world.ask([f"alone {index}" for index in range(8)], grader=grader)))
    drawn = "BEFORE UPDATE ON jobs FOR EACH ROW WHEN (NEW.metrics::text LIKE '%resampled%')"
    with held(world, drawn) as connection:
        learner = start(learners, world, database_url)
        until(lambda: waits(connection))
        learner.kill()
        learner.join()
    assert world.serving().version == 0
    assert set(world.claims().values()) == {("claimed", None)}, "the next learner gives them back"

    until(lambda: learn(world.context) not in {"busy", "idle"})

    lost, done = world.jobs()
    assert (lost.status, lost.error) == ("failed", "worker lost")
    assert done.status == "succeeded"
    assert done.metrics["resampled"]["prompts"] == 8
    assert set(world.claims()) == ids
    assert learn(world.context) == "idle"


@pytest.mark.parametrize("bound", ["phase_deadline", "stall_deadline"])
def test_a_phase_that_hangs_ends_the_process_with_a_diagnosis_and_the_next_learner_goes_on(
    bound: str, world: World, database_url: str, learners: multiprocessing.context.ForkServerContext
) -> None:
    ids = set(world.samples(groups=4))
    hasty = world.with_settings(**{bound: 1.0})
    with world.store.engine.begin() as connection:  # the batch hangs on a table somebody has locked
        connection.execute(text("LOCK TABLE tracker_values IN ACCESS EXCLUSIVE MODE"))
        learner = start(learners, hasty, database_url)
        learner.join(60)
    assert learner.exitcode == EXIT_CODE
    (job,) = world.jobs()
    assert job.status == "failed"
    assert "batch" in (job.error or "")
    assert f"LEPO_{bound.upper()}" in (job.error or "")
    assert job.diagnosis is not None
    assert "read_trackers" in job.diagnosis["doing"]
    assert world.claims() == {}
    until(lambda: learn(world.context) == "promoted")
    assert set(world.claims()) == ids


def test_a_learner_without_memory_for_its_threads_is_ended_and_the_next_one_takes_over(
    world: World, database_url: str, learners: multiprocessing.context.ForkServerContext
) -> None:
    ids = set(world.samples(groups=4))
    learner = learners.Process(
        target=learn_without_memory_for_threads, args=(world.settings.model_dump(), database_url)
    )
    learner.start()
    learner.join(30)
    assert learner.exitcode == -signal.SIGALRM
    assert set(world.claims().values()) == {("claimed", None)}, "the next learner gives them back"
    until(lambda: learn(world.context) == "promoted", 20)
    lost, done = world.jobs()
    assert (lost.status, lost.fault, lost.error) == ("failed", "infrastructure", "worker lost")
    assert done.status == "succeeded"
    assert set(world.claims()) == ids
