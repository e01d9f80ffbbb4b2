"""Faults that meet a learner at its work: killed, stopped, starved, contradicted, doubled, with another clock.

Each is a context manager: before its `yield` the fault has come and gone, within it the service recovers, after it
whatever the fault needed is tidied away. Leaves out faults of the parts around it (`parts`) and of traffic (`traffic`).
"""

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from typing import Final
from uuid import UUID

from app.stack.child import Child
from benchmarks.chaos.world import World, background, stopped

Fault = Callable[[World], AbstractContextManager[None]]

PHASES: Final = ("batch", "update", "gate", "publish", "settle")
SMALL_FILE: Final = 200_000  # bytes; no weights fit
WITHOUT_MEMORY_S: Final = 75.0  # LEPO_STALL_DEADLINE is 30; then the last words, and the alarm
PAST_LEASE_S: Final = 5.0  # LEPO_LEARNER_LEASE is 3


def killed_in(phase: str) -> Fault:
    """Make the fault of a learner that is killed in a phase."""

    @contextmanager
    def killed(here: World) -> Iterator[None]:
        with here.hold(phase):
            old = here.stack.kill("worker")
        here.restarted("worker", old)
        yield

    return killed


def rolled_back_in(phase: str) -> Fault:
    """Make the fault of an operator who rolls back while an update is in a phase."""

    @contextmanager
    def rolled_back(here: World) -> Iterator[None]:
        said: list[int] = []
        with here.hold(phase):
            asking = background(lambda: said.append(here.command("rollback", reason="chaos")["version"]))
            if phase == "settle":
                time.sleep(0.5)  # the rollback waits behind the learner, who has the lock
            else:
                asking.join()
        asking.join()
        stays(here, said[0])
        here.thaw()
        yield

    return rolled_back


def stays(here: World, version: int) -> None:
    """Watch that what was commanded serves, and goes on to."""
    with suppress(Exception):
        here.until(lambda: here.version() == version, f"version {version} is served", 15.0)
    until = time.monotonic() + here.scale.watch_s
    while time.monotonic() < until:
        served, wanted = here.version(), here.serving()
        if served != version or wanted != version:
            here.wrong("wrong_serving", f"version {version} was commanded; {wanted} is wanted and {served} served")
            return
        time.sleep(0.2)


@contextmanager
def stopped_past_its_lease(here: World) -> Iterator[None]:
    """Stop the learner in its update until another has taken its job away; then it goes on, and must not publish."""
    here.stack.supervisor.start(second(here), wait=False)
    while (job := stop_one_until_fenced(here)) is None:
        continue
    time.sleep(here.scale.watch_s)
    if here.rows("SELECT 1 FROM checkpoints WHERE job_id = :job", job=job):
        here.wrong("wrong_serving", "a learner published after its job had been taken away")
    yield
    here.stack.supervisor.stop_one("learner-2")


def stop_one_until_fenced(here: World) -> UUID | None:
    """Stop whoever is in its update until another worker has ended its job; None if it came to its end too soon."""
    job = here.in_phase("update")
    with stopped([here.stack.pids[who_runs(here, job)]]):
        if here.one("SELECT phase FROM jobs WHERE id = :job AND status = 'running'", job=job) != "update":
            return None
        time.sleep(PAST_LEASE_S)
        here.until(lambda: status(here, job) != "running", "another worker ends the job of a stopped one")
    return job


def second(here: World) -> Child:
    """Describe one more learner."""
    child = here.stack.child("worker")
    return replace(child, name="learner-2", argv=(*child.argv, "--task", "learn"))


def who_runs(here: World, job: UUID) -> str:
    """Name the process that has a job: its worker's name ends with its pid."""
    worker = str(here.one("SELECT worker FROM jobs WHERE id = :job", job=job))
    pids = here.stack.pids
    return next((name for name in ("worker", "learner-2") if worker.endswith(f":{pids.get(name)}")), "worker")


def status(here: World, job: UUID) -> str:
    """Read a job's status."""
    return str(here.one("SELECT status FROM jobs WHERE id = :job", job=job))


@contextmanager
def two_learners(here: World) -> Iterator[None]:
    """Let two learners look for the same work for some updates."""
    before = here.moves()
    here.stack.supervisor.start(second(here), wait=False)
    here.until(lambda: here.promoted_since(before) >= 4, "four updates by two learners")
    yield
    here.stack.supervisor.stop_one("learner-2")


@contextmanager
def disk_full(here: World) -> Iterator[None]:
    """Let no file of the learner grow beyond what its weights need, from its publishing on."""
    before = here.fence()
    with here.hold("gate"):
        pid = here.stack.pids["worker"]
        limit(pid, resource.RLIMIT_FSIZE, SMALL_FILE)
    here.until(lambda: here.failed_since(before) >= here.scale.failures, "updates fail on a full disk", 120.0)
    limit(pid, resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)
    yield


@contextmanager
def out_of_memory(here: World) -> Iterator[None]:
    """Give the learner no more memory than it has, from its update on: an update fails, or the process ends.

    A limit of address space is harsher than what a machine does, where the kernel kills (`killed_in`): every allocation
    is refused wherever it is, those of a thread that begins included.
    """
    before = here.fence()
    with here.hold("batch"):
        pid = here.stack.pids["worker"]
        limit(pid, resource.RLIMIT_AS, 1 << 20)
    here.until(
        lambda: here.failed_since(before) >= 1 or here.stack.pids["worker"] != pid,
        "an update fails for want of memory, or its process ends",
        WITHOUT_MEMORY_S,
    )
    limit(pid, resource.RLIMIT_AS, resource.RLIM_INFINITY)
    yield


def limit(pid: int, what: int, soft: int) -> None:
    """Set a limit of a process, if it is still there."""
    with suppress(ProcessLookupError):
        resource.prlimit(pid, what, (soft, resource.RLIM_INFINITY))


@contextmanager
def frozen_in_update(here: World) -> Iterator[None]:
    """Freeze learning while an update runs: it must not come to serve."""
    with here.hold("update") as job:
        here.command("learning/freeze", reason="chaos")
        version = here.serving()
    here.until(lambda: status(here, job) != "running", "a frozen update ends")
    stays(here, version)
    here.thaw()
    yield


@contextmanager
def asked_to_end(here: World) -> Iterator[None]:
    """Ask the learner to end in the middle of an update (SIGTERM), as a deployment does."""
    with here.hold("batch"):
        old = here.stack.pids["worker"]
        os.kill(old, signal.SIGTERM)
        time.sleep(0.3)
    here.restarted("worker", old)
    yield


def clock_off(ahead: str) -> Fault:
    """Make the fault of a learner whose clock is ahead (`faketime`)."""

    @contextmanager
    def off(here: World) -> Iterator[None]:
        child = here.stack.child("worker")
        supervisor = here.stack.supervisor
        supervisor.stop_one("worker")
        supervisor.start(replace(child, argv=("faketime", "-f", ahead, *child.argv)), wait=False)
        before = here.moves()
        here.until(lambda: here.promoted_since(before) >= 2, f"updates by a learner whose clock is {ahead}")
        yield
        supervisor.stop_one("worker")
        supervisor.start(child, wait=False)

    return off


@contextmanager
def rolled_back_twice(here: World) -> Iterator[None]:
    """Give one rollback twice, under one Idempotency-Key: it is one."""
    key = f"chaos-{time.monotonic_ns()}"
    first = here.command("rollback", key, reason="chaos")["version"]
    again = here.command("rollback", key, reason="chaos")["version"]
    if first != again:
        here.wrong("wrong_serving", f"a rollback to {first} given twice was answered with {again}")
    stays(here, first)
    here.thaw()
    yield
