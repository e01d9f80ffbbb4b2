"""The bell: it rings again after Redis was killed, hints never pile up, and ringing it needs no torch."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from app.settings import Settings
from app.stack.redis import EmbeddedRedis, client_url
from tests.patience import PATIENCE_S
from worker.celery_app import GRADE, LEARN, QUEUES, SWEEP, build

pytestmark = pytest.mark.alone

PROGRAM = """
import sys, time
from app.settings import Settings
from worker.celery_app import GRADE, LEARN, SWEEP, build
from worker.commands import BEAT, WORKER

celery = build(Settings(learn_interval=0.05, grade_interval=0.05, sweep_interval=0.05), sys.argv[2])
def learn():
    print("learn", flush=True)
    time.sleep(float(sys.argv[3]))
def grade():
    print("grade", flush=True)
def sweep():
    pass
if sys.argv[1] == "worker":
    celery.task(name=LEARN)(learn)
    celery.task(name=GRADE)(grade)
    celery.task(name=SWEEP)(sweep)
    celery.Worker(**WORKER).start()
else:
    celery.Beat(**BEAT).run()
"""


class Bell:
    """A Redis of our own, a worker and a beat, each a process that can be killed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.server = EmbeddedRedis(directory)
        self.redis: subprocess.Popen[bytes] | None = None
        self.processes: list[subprocess.Popen[bytes]] = []

    def start_redis(self) -> None:
        self.server.prepare()
        self.redis = subprocess.Popen(self.server.child().argv, stdout=subprocess.DEVNULL)
        until(self.server.answers)

    def kill_redis(self) -> None:
        assert self.redis is not None
        self.redis.kill()
        self.redis.wait()

    def start(self, role: str, task_seconds: float = 0.0, *, clock: str | None = None) -> subprocess.Popen[bytes]:
        program = textwrap.dedent(PROGRAM)
        before = () if clock is None else ("faketime", "-f", clock)
        with (self.directory / f"{role}.log").open("ab") as log:
            process = subprocess.Popen(
                [*before, sys.executable, "-c", program, role, self.server.url(), str(task_seconds)],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def rung(self, task: str) -> int:
        return self.log("worker").split("\n").count(task)

    def log(self, role: str) -> str:
        return (self.directory / f"{role}.log").read_text()

    def close(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # faketime starts a process of its own, which would stay
            process.wait()
        if self.redis is not None:
            self.kill_redis()


@pytest.fixture
def bell(tmp_path: Path) -> Iterator[Bell]:
    made = Bell(tmp_path)
    yield made
    made.close()


def until(true: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_the_worker_hears_again_however_often_redis_is_killed(bell: Bell) -> None:
    """Hints come fast, so that some death of Redis falls between a hint's arrival and what the worker says to it."""
    worker = bell.start("worker", task_seconds=0.1)  # before there is a Redis at all
    bell.start("beat")
    rng = random.Random(1)
    bell.start_redis()
    for _ in range(6):
        before = {task: bell.rung(task) for task in ("learn", "grade")}
        until(lambda before=before: all(bell.rung(task) > count + 1 for task, count in before.items()))  # type: ignore[misc]
        time.sleep(rng.random() * 0.2)
        bell.kill_redis()
        time.sleep(rng.choice((0.0, 0.3)))
        bell.start_redis()
    before = {task: bell.rung(task) for task in ("learn", "grade")}
    until(lambda: all(bell.rung(task) > count + 1 for task, count in before.items()))
    assert worker.poll() is None


def test_redis_dying_under_a_running_task_neither_ends_the_task_nor_deafens_the_worker(bell: Bell) -> None:
    bell.start_redis()
    worker = bell.start("worker", task_seconds=2.0)
    bell.start("beat")
    until(lambda: bell.rung("learn") == 1)
    bell.kill_redis()
    time.sleep(0.5)
    bell.start_redis()
    until(lambda: bell.rung("learn") >= 2)
    assert worker.poll() is None


def test_hints_do_not_pile_up_while_no_worker_reads_them(bell: Bell) -> None:
    bell.start_redis()
    bell.start("beat")
    with redis.Redis.from_url(client_url(bell.server.url())) as client:
        until(lambda: all(client.llen(queue) for queue in QUEUES.values()))
        time.sleep(1.5)
        assert {queue: client.llen(queue) for queue in QUEUES.values()} == dict.fromkeys(QUEUES.values(), 1)


def test_a_stopped_beat_and_worker_end_by_themselves(bell: Bell) -> None:
    bell.start_redis()
    processes = [bell.start("worker"), bell.start("beat")]
    until(lambda: bell.rung("grade") > 0)
    for process in processes:
        process.terminate()
    assert [process.wait(timeout=20) for process in processes] == [0, 0]


def test_a_hint_names_no_time_that_a_worker_would_compare_with_its_own_clock(bell: Bell) -> None:
    bell.start_redis()
    bell.start("beat")
    with redis.Redis.from_url(client_url(bell.server.url())) as client:
        for name in QUEUES.values():
            until(lambda name=name: client.llen(name) > 0)  # type: ignore[misc]
            headers = json.loads(client.lindex(name, 0))["headers"]
            assert (headers["eta"], headers["expires"]) == (None, None)


@pytest.mark.skipif(shutil.which("faketime") is None, reason="no libfaketime here (Debian: faketime)")
@pytest.mark.parametrize("offset", ["+1h", "-1h"])
def test_a_worker_hears_whatever_its_clock_says(bell: Bell, offset: str) -> None:
    bell.start_redis()
    bell.start("worker", clock=offset)
    bell.start("beat")
    until(lambda: all(bell.rung(task) > 2 for task in ("learn", "grade")))


def test_each_hint_has_its_interval_and_only_json_is_read() -> None:
    celery = build(Settings(learn_interval=7, grade_interval=3, sweep_interval=900), "redis://nowhere")
    intervals = {task: entry["schedule"] for task, entry in celery.conf.beat_schedule.items()}
    assert intervals == {LEARN: 7, GRADE: 3, SWEEP: 900}
    assert celery.conf.accept_content == ["json"]
    assert celery.conf.worker_pool == "solo"


def test_ringing_the_bell_needs_no_torch() -> None:
    program = "import sys, worker.celery_app, worker.commands; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
