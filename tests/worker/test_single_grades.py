"""One grade per answer, through the worker: where its baseline comes from, and grades that come late or change."""

from collections.abc import Sequence
from uuid import UUID

import pytest

from app.store import jobs
from app.store.grades import Entry, add_grade, rewards
from tests.worker.world import World, even
from worker.learn import learn


def singles(world: World, count: int = 16, name: str = "alone") -> list[UUID]:
    """Ask for one answer to each of many prompts, and grade each once."""
    return world.grade(world.ask([f"{name} {index}" for index in range(count)], task="sums"))


def correct(world: World, ids: Sequence[UUID], value: float) -> None:
    """Let the same grader say something else of the same answers."""
    with world.store.session() as session:
        for interaction_id in ids:
            add_grade(session, interaction_id, Entry("client", "someone", value=value))


@pytest.mark.parametrize("baseline", ["tracker", "batch"])
def test_a_job_may_choose_its_baseline_and_what_was_used_is_on_record(world: World, baseline: str) -> None:
    ids = singles(world)
    with world.store.session() as session:
        jobs.request(session, trigger="admin", requested_by="someone", config={"baseline": baseline})
    assert learn(world.context) == "promoted"
    assert world.jobs()[0].metrics["baselines"] == {baseline: len(ids)}
    assert world.reasons() == {"learned": len(ids)}


def test_single_grades_teach_nothing_where_only_groups_may(world: World) -> None:
    grouped = world.with_settings(baseline="group")
    ids = singles(grouped)
    assert learn(grouped.context) == "nothing_to_learn"
    assert grouped.reasons() == {"no_group": len(ids)}
    assert grouped.serving().version == 0


def test_single_grades_beside_a_group_say_that_they_have_none(world: World) -> None:
    grouped = world.with_settings(baseline="group")
    alone = singles(grouped, 4)
    grouped.samples()
    assert learn(grouped.context) == "promoted"
    assert {grouped.claims()[one] for one in alone} == {("skipped", "no_group")}


def test_a_grade_that_changes_before_it_is_learned_from_is_what_counts(world: World) -> None:
    ids = singles(world)
    correct(world, ids[:6], 1.0)
    correct(world, ids[6:], 0.0)
    assert learn(world.context) == "promoted"
    assert world.jobs()[0].metrics["reward_mean"] == pytest.approx(6 / 16)


def test_a_grade_that_changes_too_late_is_kept_and_teaches_nothing_more(world: World) -> None:
    ids = singles(world)
    assert learn(world.context) == "promoted"
    before = world.jobs()[0].metrics["reward_mean"]
    correct(world, ids, 1.0)
    with world.store.session() as session:
        assert {reward.value for reward in rewards(session, ids).values()} == {1.0}
    assert learn(world.context) == "idle"
    assert world.jobs()[0].metrics["reward_mean"] == before


@pytest.mark.parametrize(("bound", "outcome"), [(1e-6, "diverged"), (10, "learned")])
def test_a_grade_that_comes_after_an_update_counts_within_the_bound_and_not_beyond(
    world: World, bound: float, outcome: str
) -> None:
    bounded = world.with_settings(max_divergence=bound)
    late = bounded.ask([f"late {index}" for index in range(8)], task="sums")
    singles(bounded)
    assert learn(bounded.context) == "promoted"
    bounded.grade(late, even)
    singles(bounded, name="again")
    assert learn(bounded.context) == "promoted"
    found = {reason or state for state, reason in (bounded.claims()[one] for one, _ in late)}
    assert found == {outcome}
