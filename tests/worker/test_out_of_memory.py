"""Memory that runs out at any place of an update: the job ends or is taken over, nothing is burnt or learned twice.

Python's profiler raises MemoryError where a function of ours is called, as a frame without memory does. Its stand-in
leaves the watchdog out, which has tests of its own.
"""

import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

import pytest
import torch
from sqlalchemy.exc import StatementError

from app.errors import Unavailable
from tests.worker.test_watchdog import until
from tests.worker.world import World
from training.update import Learner
from worker.learn import learn

ROOT = Path(__file__).parents[2]
OURS = tuple(f"{ROOT / room}/" for room in ("app", "training", "worker"))
WATCHDOG = str(ROOT / "worker" / "watchdog.py")
ROUNDS = 10  # places, evenly over the calls of an update


class Shortage:
    """Counts calls of our functions on this thread, and refuses one of them memory."""

    def __init__(self, refused: int = 0) -> None:
        self.calls, self.refused, self.where = 0, refused, ""

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        name = frame.f_code.co_filename
        if event != "call" or name == WATCHDOG or not name.startswith(OURS):
            return
        self.calls += 1
        if self.calls == self.refused:
            self.where = f"{Path(name).name}:{frame.f_code.co_name}"
            raise MemoryError


def under(shortage: Shortage, world: World) -> None:
    """Learn with it; what it leads to has the words of whoever met it, the driver's for a connection it broke."""
    sys.setprofile(shortage)
    try:
        with suppress(MemoryError, StatementError, Unavailable):
            learn(world.context)
    finally:
        sys.setprofile(None)


def all_settled(world: World, ids: set[object]) -> Callable[[], bool]:
    def look() -> bool:
        learn(world.context)
        claims = world.claims()
        return ids <= set(claims) and {outcome for outcome, _ in claims.values()} <= {"learned", "skipped"}

    return look


def test_memory_that_runs_out_at_any_call_ends_the_job_and_burns_nothing(world: World) -> None:
    world = world.with_settings(learning_rate=1e-6)  # so that every round finds something to learn
    world.samples(groups=4)
    whole = Shortage()
    under(whole, world)
    assert [job.verdict for job in world.jobs()] == ["promoted"]
    places = []
    for number in range(ROUNDS):
        ids: set[object] = set(world.samples(groups=4))
        shortage = Shortage(1 + number * whole.calls // ROUNDS)
        under(shortage, world)
        places.append(shortage.where)
        until(all_settled(world, ids), 30)
        assert {job.status for job in world.jobs()} <= {"succeeded", "failed"}, places
        assert {job.fault for job in world.jobs()} <= {None, "infrastructure"}, places
        assert set(world.reasons()) <= {"learned", "no_exploration"}, places
    assert len(set(places) - {""}) > ROUNDS // 3, places
    logging.getLogger(__name__).info("refused at %s", ", ".join(places))


def test_torchs_own_refusal_in_an_update_is_a_shortage_and_gives_everything_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = set(world.samples(groups=4))
    monkeypatch.setattr(Learner, "update", lambda *_, **__: torch.empty(1 << 50))
    with pytest.raises(RuntimeError, match="allocate"):
        learn(world.context)
    (job,) = world.jobs()
    assert (job.status, job.phase, job.fault) == ("failed", "update", "infrastructure")
    assert "memory" in (job.error or "")
    assert world.claims() == {}
    monkeypatch.undo()
    until(lambda: learn(world.context) == "promoted", 20)
    assert set(world.claims()) == ids


def test_a_job_whose_end_finds_no_memory_either_is_ended_by_its_lease(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of the update goes on to the log, and not the one of writing it down."""
    ids = set(world.samples(groups=4))

    def refuse(*_: object, **__: object) -> None:
        raise MemoryError("in the update")

    def refuse_again(*_: object, **__: object) -> None:
        raise MemoryError("in writing down why")

    monkeypatch.setattr(Learner, "update", refuse)
    monkeypatch.setattr("worker.job.jobs.finish", refuse_again)
    with pytest.raises(MemoryError, match="in the update"):
        learn(world.context)
    monkeypatch.undo()
    until(lambda: learn(world.context) == "promoted", 20)
    lost, done = world.jobs()
    assert (lost.status, lost.error) == ("failed", "worker lost")
    assert done.status == "succeeded"
    assert set(world.claims()) == ids
