"""Server-side grading: a grade, no opinion and a failure stay three things, and no two workers grade one answer."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text

from app.store import learnable
from app.store.connect import Store
from app.store.grades import Entry, add_grade, ledger, rewards
from app.store.grading import settle, take, try_again
from app.store.interactions import get_interaction
from app.store.projects import used
from app.store.tables import Grade, Interaction
from app.store.tenants import DEFAULT
from tests.patience import PATIENCE_S
from tests.worker.world import World, make_world
from worker.grade import LEASE_S, MOST_ATTEMPTS, MOST_LOST, grade

NE = {"type": "string_check", "reference": "no byte soup is this", "operation": "ne", "name": "not-it"}
EQ = {**NE, "operation": "eq"}
HIDDEN_TOWER = "(9^9)^{(9^9)^{(9^9)}}"  # not seen in the text, so not refused
HANGS_ON_ANSWER = {"type": "math", "reference": "2"}  # with the answer that `hang` writes
BROKEN_REFERENCE = {"type": "math", "reference": "\\frac{1}{"}


@pytest.fixture
def world(store: Store, model_dir: Path, tmp_path: Path) -> World:
    """A world whose worker takes its time between two looks: grading ends when there is no more to grade."""
    return make_world(store, model_dir, tmp_path / "var").with_settings(learn_interval=10)


def asked(world: World, grader: Mapping[str, Any], count: int = 1) -> list[UUID]:
    return [one for one, _ in world.ask([f"question {index}" for index in range(count)], grader=grader)]


def test_a_project_whose_graders_have_run_long_enough_today_waits_for_tomorrow(world: World) -> None:
    """Its answers stay pending until a new day, or until its bound is raised."""
    asked(world, NE, 2)
    bounded = world.with_settings(project_grading_seconds=1e-9)
    assert grade(bounded.context) == {"graded": 1, "pending": 1}
    with world.store.session() as session:
        states = session.execute(select(Interaction.grading_state, Interaction.grading_until)).all()
        [until] = [until for state, until in states if state == "pending"]
        assert until is not None
        assert (until.astimezone(UTC) + timedelta(seconds=1)).hour == 0, "the end of a day"
        assert used(session, DEFAULT).grading_seconds > 0
    end_leases(world)
    assert grade(world.context) == {"graded": 1}


def end_leases(world: World) -> None:
    """Let every lease and pause be over."""
    with world.store.session() as session:
        session.execute(text("UPDATE interactions SET grading_until = now() WHERE grading_until IS NOT NULL"))


def hang(world: World, interaction_id: UUID) -> None:
    """Put an answer in the place of what was said that math-verify cannot come to an end with."""
    with world.store.session() as session:
        statement = text("UPDATE interactions SET answer = :answer WHERE id = :id")
        session.execute(statement, {"answer": f"${HIDDEN_TOWER}$", "id": interaction_id})


def until(true: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def state_of(world: World, interaction_id: UUID) -> tuple[Interaction, list[Grade]]:
    with world.store.session() as session:
        return get_interaction(session, interaction_id), ledger(session, interaction_id)


@pytest.mark.parametrize(("grader", "value"), [(NE, 1.0), (EQ, 0.0)])
def test_a_grader_named_in_the_request_makes_a_grade(world: World, grader: Mapping[str, Any], value: float) -> None:
    (one,) = asked(world, grader)
    assert grade(world.context) == {"graded": 1}
    row, (entry,) = state_of(world, one)
    assert row.grading_state == "graded"
    assert (entry.state, entry.value, entry.grader_kind, entry.grader_id) == ("graded", value, "string_check", "not-it")
    assert entry.grader_version == "2"
    assert grade(world.context) == {}


def test_a_problem_of_reasoning_gym_named_in_the_request_is_graded_by_its_own_scorer(world: World) -> None:
    """What a random model says is no sum; an entry that nobody can make is a failure and no zero."""
    spec = {"type": "reasoning_gym", "dataset": "chain_sum", "seed": 1, "index": 0}
    (one,) = asked(world, spec)
    (other,) = asked(world, {**spec, "dataset": "chain_sun"})
    states = grade(world.context)
    assert states["graded"] == 1
    row, (entry,) = state_of(world, one)
    assert (row.grading_state, entry.grader_kind, entry.value) == ("graded", "reasoning_gym", 0.0)
    assert entry.grader_version is not None
    assert "reasoning-gym" in entry.grader_version
    for _ in range(MOST_ATTEMPTS - 1):
        end_leases(world)
        grade(world.context)
    row, (entry,) = state_of(world, other)
    assert (row.grading_state, entry.value) == ("failed", None)
    assert "chain_sum" in str(entry.comment)


def test_a_failing_grader_is_tried_again_then_recorded_as_failed_and_never_as_zero(world: World) -> None:
    (one,) = asked(world, BROKEN_REFERENCE)
    for _ in range(MOST_ATTEMPTS - 1):
        assert grade(world.context) == {"pending": 1}
        assert state_of(world, one)[1] == []
        assert grade(world.context) == {}, "not before its pause is over"
        end_leases(world)
    assert grade(world.context) == {"failed": 1}
    row, (entry,) = state_of(world, one)
    assert (row.grading_state, row.grading_attempts) == ("failed", MOST_ATTEMPTS)
    assert (entry.state, entry.value) == ("failed", None)
    assert entry.comment
    with world.store.session() as session:
        assert rewards(session, [one]) == {}
    assert row.graded_at is None


def test_a_spec_that_cannot_be_read_fails_at_once_with_the_reason(world: World) -> None:
    (one,) = asked(world, {"type": "astrology"})
    assert grade(world.context) == {"failed": 1}
    _, (entry,) = state_of(world, one)
    assert entry.grader_kind == "astrology"
    assert "type" in (entry.comment or "")


def test_one_failing_grader_does_not_hold_up_the_others(world: World) -> None:
    asked(world, BROKEN_REFERENCE)
    later = asked(world, NE, count=3)
    assert grade(world.context) == {"pending": 1, "graded": 3}
    assert {state_of(world, one)[0].grading_state for one in later} == {"graded"}


def test_two_workers_share_the_work_and_grade_nothing_twice(world: World) -> None:
    ids = asked(world, NE, count=24)
    with world.store.engine.begin() as connection:  # one answer is in another worker's hands
        connection.execute(text("SELECT 1 FROM interactions WHERE id = :id FOR NO KEY UPDATE"), {"id": ids[0]})
        counts: list[int] = []
        workers = [threading.Thread(target=lambda: counts.append(grade(world.context).total())) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert sum(counts) == 23
    assert grade(world.context).total() == 1
    assert {len(state_of(world, one)[1]) for one in ids} == {1}


def test_no_lock_is_held_while_a_grader_runs(world: World) -> None:
    """The answer is read, graded by hand and locked by others while its grader hangs."""
    slow = world.with_settings(grader_timeout=6.0)
    [one] = asked(slow, HANGS_ON_ANSWER)
    hang(slow, one)
    worker = threading.Thread(target=grade, args=(slow.context,))
    worker.start()
    until(lambda: state_of(slow, one)[0].grading_attempts == 1)
    began = time.monotonic()
    with slow.store.session() as session:
        session.execute(text("SELECT 1 FROM interactions FOR UPDATE NOWAIT"))
        add_grade(session, one, Entry("client", "somebody", value=1.0))
    assert time.monotonic() - began < 5
    assert worker.is_alive()
    slow.context.stopping.set()
    worker.join()


def test_an_answer_on_which_a_grader_hangs_is_a_recorded_failure_and_no_other_waits_for_it(world: World) -> None:
    quick = world.with_settings(grader_timeout=0.5)
    hanging, sound = asked(quick, HANGS_ON_ANSWER, count=2)
    hang(quick, hanging)
    for _ in range(MOST_ATTEMPTS):
        grade(quick.context)
        end_leases(quick)
    row, (entry,) = state_of(quick, hanging)
    assert (row.grading_state, entry.state, entry.value) == ("failed", "failed", None)
    assert "did not finish within 0.5 s" in (entry.comment or "")
    assert "on any answer" not in (entry.comment or "")
    assert state_of(quick, sound)[0].grading_state == "graded"


def test_a_reference_that_hangs_by_itself_fails_every_choice_of_its_request_at_once(world: World) -> None:
    quick = world.with_settings(grader_timeout=0.5)
    ids = [one for one, _ in quick.ask(["question"], choices=6, grader={"type": "math", "reference": HIDDEN_TOWER})]
    with quick.store.session() as session:
        session.execute(text("UPDATE interactions SET answer = '2'"))
    began = time.monotonic()
    assert grade(quick.context) == {"failed": 1}
    assert time.monotonic() - began < 10, "not each choice for its own"
    for one in ids:
        row, (entry,) = state_of(quick, one)
        assert (row.grading_state, entry.state) == ("failed", "failed")
        assert "on any answer" in (entry.comment or "")


KILLED = """
import sys
from app.settings import Settings
from app.store.connect import open_store
from worker.grade import grade
from worker.resident import Resident
from worker.resident import Context

settings = Settings(grader_timeout=60)
grade(Context(settings, open_store(sys.argv[1]), "redis+socket:///nowhere", Resident(settings)))
"""


def test_a_worker_killed_while_it_grades_gives_the_answer_back_after_the_lease(world: World, database_url: str) -> None:
    [one] = asked(world, HANGS_ON_ANSWER)
    hang(world, one)
    killed = subprocess.Popen([sys.executable, "-c", KILLED, database_url])
    until(lambda: state_of(world, one)[0].grading_attempts == 1, 60)
    killed.kill()
    killed.wait()
    assert grade(world.context) == {}, "the lease holds"
    with world.store.session() as session:
        left = session.scalars(text("SELECT grading_until - now() FROM interactions")).one()
        session.execute(text("UPDATE interactions SET answer = '2'"))
    assert timedelta(0) < left < timedelta(seconds=3 * 60 + LEASE_S)
    end_leases(world)
    assert grade(world.context) == {"graded": 1}
    row, (entry,) = state_of(world, one)
    assert (row.grading_state, row.grading_attempts, entry.value) == ("graded", 2, 1.0)


def test_an_answer_that_ends_its_workers_is_given_up_with_a_reason(world: World) -> None:
    [one] = asked(world, NE)
    with world.store.session() as session:
        session.execute(
            text("UPDATE interactions SET grading_attempts = :lost, grading_until = now()"), {"lost": MOST_LOST}
        )
    assert grade(world.context) == {"failed": 1}
    assert "ended before they had a verdict" in (state_of(world, one)[1][0].comment or "")


def test_a_worker_that_was_stopped_past_its_lease_writes_nothing(world: World) -> None:
    [one] = asked(world, NE)
    with world.store.session() as session:
        late = take(session, timedelta(0))
    assert late is not None
    assert grade(world.context) == {"graded": 1}
    with world.store.session() as session:
        assert not settle(session, late, "graded", Entry("string_check", "late", value=0.0))
        assert not try_again(session, late, timedelta(0))
    assert [entry.grader_id for entry in state_of(world, one)[1]] == ["not-it"]


@pytest.mark.parametrize(
    ("source", "who", "counts"),
    [("scoped", "scoped", True), ("request", "scoped", False), ("request", "all", True), ("scoped", "none", False)],
)
def test_a_grader_named_without_the_right_to_grade_is_another_class(
    world: World, source: str, who: str, counts: bool
) -> None:
    chosen = world.with_settings(request_graders=who)
    [one] = asked(chosen, NE)
    with chosen.store.session() as session:
        session.execute(text("UPDATE interactions SET grader_source = :source"), {"source": source})
    assert grade(chosen.context) == {"graded": 1}
    row, (entry,) = state_of(chosen, one)
    assert (entry.source, entry.counts, entry.value) == (source, counts, 1.0)
    assert (row.graded_at is not None) == counts
    with chosen.store.session() as session:
        assert (one in rewards(session, [one])) == counts
        assert learnable.count_waiting(session) == counts
