"""What the overview says: whether it is improving, and what it waits for, from what is in the store."""

from datetime import UTC, datetime
from typing import Any

import pytest

from app.api.console.pages.now import Now, read_now
from app.api.console.pages.verdict import difference, verdict
from app.settings import Settings
from app.store import held_out, jobs, learning, policy_life
from app.store.connect import Store
from app.store.console_overview import Rewards
from app.store.overview import Point
from app.store.tables import Checkpoint
from tests.app.store.acts import grade, publish
from tests.conftest import Answers

AT = datetime(2026, 11, 28, tzinfo=UTC)


def asked(version: int, correct: int, total: int = 100) -> Point:
    return Point(version, correct, total, correct / total, AT)


def rewarded(version: int, mean: float, half: float) -> Rewards:
    return Rewards(float(version), mean, mean - half, mean + half, 50)


def now(store: Store, **settings: Any) -> Now:
    with store.session() as session:
        return read_now(session, Settings(**{"min_grades": 4, **settings}))


def test_the_gates_own_comparison_goes_first() -> None:
    gate = {"beside": {"base": {"version": 0, "difference": 0.31, "low": 0.15, "high": 0.51}}}
    found = verdict([asked(0, 30), asked(8, 31)], [], 8, gate)
    assert (found.sense, found.words) == ("better", "Yes, it is improving")
    assert "+31.0 points against version 0" in found.because
    assert "30.0% of 100 before, 31.0% of 100 now" in found.because


@pytest.mark.parametrize(("now_right", "sense"), [(60, "better"), (10, "worse"), (33, "unclear")])
def test_else_held_out_answers_are_compared_with_their_interval(now_right: int, sense: str) -> None:
    assert verdict([asked(0, 30), asked(4, now_right)], [], 4, None).sense == sense


def test_newcombes_interval_is_the_published_one() -> None:
    """Newcombe (1998), Statistics in Medicine 17, table II, example (a): 56/70 against 48/80, by method 10."""
    low, high = difference(Point(0, 48, 80, 0.6, AT), Point(1, 56, 70, 0.8, AT))
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)


def test_else_live_rewards_and_what_they_are_worth_is_said() -> None:
    found = verdict([], [rewarded(0, 0.3, 0.05), rewarded(3, 0.6, 0.05)], 3, None)
    assert found.sense == "better"
    assert "live reward" in found.because
    assert "LEPO_HELDOUT" in found.because


def test_before_an_update_there_is_nothing_to_judge() -> None:
    assert verdict([], [], None, None).words == "Nothing serves yet"
    assert "30.0% of held-out questions" in verdict([asked(0, 30)], [], 0, None).because


def test_too_few_grades_are_counted(store: Store, answers: Answers, base_checkpoint: Checkpoint) -> None:
    assert now(store).empty
    ids = [answers()[0] for _ in range(3)]
    grade(store, *ids[:2])
    grade(store, ids[2], value=0.0)
    found = now(store)
    assert (found.mood, found.have, found.need) == ("waiting", 3, 4)
    assert found.headline == "Waiting for grades: 3 of 4"
    assert not found.empty
    assert [step.path for step in found.steps] == ["/console/review"]
    assert now(store, min_grades=3).headline == "An update is about to begin"


def test_who_froze_and_why_is_said_before_anything_else(store: Store, base_checkpoint: Checkpoint) -> None:
    with store.session() as session:
        learning.freeze(session, "ann", "the canary was odd")
    found = now(store)
    assert found.headline == "Learning is frozen"
    assert "Frozen by ann" in found.why
    assert "the canary was odd" in found.why
    assert found.steps[-1].path == "/console/learning/thaw"
    assert now(store, learn=False).headline == "Learning is off"


def test_an_update_that_no_worker_takes_asks_for_a_worker(store: Store, base_checkpoint: Checkpoint) -> None:
    with store.session() as session:
        jobs.request(session, trigger="admin", requested_by="ann")
    found = now(store)
    assert found.headline == "Waiting for a worker"
    assert "lepo worker" in str(found.steps[0].command)


def test_a_held_policy_waits_for_its_reader(store: Store, base_checkpoint: Checkpoint) -> None:
    held = publish(store, base_checkpoint)
    with store.session() as session:
        policy_life.move(session, held.id, "hold", "there are no held-out questions", "worker")
    found = now(store)
    assert found.headline == f"Version {held.version} waits for you"
    upload = "lepo data held-out upload heldout.jsonl"
    assert any(step.command == upload for step in found.steps)
    with store.session() as session:
        held_out.activate(session, held_out.add(session, "{}", 1, "ann").version, "ann")
    assert not any(step.command == upload for step in now(store).steps), "they are there by now"


def test_refusals_in_a_row_are_told_with_what_follows(store: Store, base_checkpoint: Checkpoint) -> None:
    with store.session() as session:
        for _ in range(3):
            learning.back_off(session, freeze_after=5)
    assert "refused 3 times in a row: the next update learns at 12% of the rate" in now(store).notes[-1]
