"""Server-side grading: a grade, no opinion and a failure stay three things, and no two workers grade one answer."""

import threading
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from app.store.grades import ledger, rewards
from app.store.interactions import get_interaction
from app.store.tables import Grade, Interaction
from tests.worker.world import World
from worker.grade import MOST_ATTEMPTS, grade

NE = {"type": "string_check", "reference": "no byte soup is this", "operation": "ne", "name": "not-it"}
EQ = {**NE, "operation": "eq"}
BROKEN_REFERENCE = {"type": "math", "reference": "\\frac{1}{"}


def asked(world: World, grader: Mapping[str, Any], count: int = 1) -> list[UUID]:
    return [one for one, _ in world.ask([f"question {index}" for index in range(count)], grader=grader)]


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
    assert entry.grader_version == "1"
    assert grade(world.context) == {}


def test_a_failing_grader_is_tried_again_then_recorded_as_failed_and_never_as_zero(world: World) -> None:
    (one,) = asked(world, BROKEN_REFERENCE)
    for _ in range(MOST_ATTEMPTS - 1):
        assert grade(world.context) == {"pending": 1}
        assert state_of(world, one)[1] == []
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
    world = world.with_settings(learn_interval=10)
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
