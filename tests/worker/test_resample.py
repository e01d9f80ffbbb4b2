"""Resampling on a real database with a real model: single grades learn by fresh groups, within the cap, and once."""

import random
from uuid import UUID, uuid4

import pytest

from app.engine.constraint import Constraint
from app.store import jobs
from tests.worker.world import World
from training.advantage import Graded
from training.graders.parse import parse_grader
from worker.grade import grade
from worker.learn import learn
from worker.resample import marked
from worker.samples import Sample

A_BYTE = {"type": "string_check", "reference": "e", "operation": "ilike"}  # a random model writes it now and then
BROKEN = {"type": "math", "reference": "\\frac{1}{"}


def singles(world: World, count: int = 12, asker: str | None = None, name: str = "alone") -> list[UUID]:
    """Ask for one answer to each of many prompts, graded by this server."""
    answers = world.ask([f"{name} {index}" for index in range(count)], task="sums", grader=A_BYTE, asker=asker)
    while grade(world.context):
        pass
    return [interaction for interaction, _ in answers]


def test_a_lone_answer_with_a_grader_becomes_a_group_of_the_serving_policy(world: World) -> None:
    fresh = world.with_settings(resample=4)
    ids = singles(fresh)
    assert learn(fresh.context) == "promoted"
    (job,) = fresh.jobs()
    assert job.metrics["resampled"] == {"prompts": len(ids), "answers": 4 * len(ids)}
    assert job.metrics["baselines"] == {"group": 4 * len(ids)}
    assert job.metrics["update"]["rollouts"] == 4 * len(ids)
    assert fresh.reasons() == {"learned": len(ids)}
    assert learn(fresh.context) == "idle"


@pytest.mark.parametrize("wish", [0, 4])
def test_a_job_may_choose_it_and_without_it_a_single_grade_has_another_baseline(world: World, wish: int) -> None:
    ids = singles(world)
    with world.store.session() as session:
        jobs.request(session, trigger="admin", requested_by="someone", config={"resample": wish})
    assert learn(world.context) == "promoted"
    baselines = world.jobs()[0].metrics["baselines"]
    assert baselines == ({"group": 4 * len(ids)} if wish else {"batch": len(ids)})
    assert ("resampled" in world.jobs()[0].metrics) == bool(wish)


def test_groups_and_answers_without_a_grader_stay_as_they_are(world: World) -> None:
    fresh = world.with_settings(resample=4)
    fresh.samples(groups=2, choices=4)
    client_graded = fresh.grade(fresh.ask([f"no grader {index}" for index in range(6)], task="sums"))
    singles(fresh, 3)
    assert learn(fresh.context) == "promoted"
    metrics = fresh.jobs()[0].metrics
    assert metrics["resampled"] == {"prompts": 3, "answers": 12}
    assert metrics["baselines"]["batch"] == len(client_graded)
    assert metrics["baselines"]["group"] == 2 * 4 + 12


def test_constrained_answers_teach_as_they_are_and_are_not_drawn_anew(world: World) -> None:
    """The worker does not know their constraint, so what it would draw is no group of theirs."""
    fresh = world.with_settings(resample=4)
    prompts, constraint = [f"a or b {index}" for index in range(6)], Constraint("regex", "[a-f]{1,4}")
    asked = fresh.ask(prompts, task="sums", grader=A_BYTE, constraint=constraint)
    assert all(len(finished.rollout.masks_MQ) for _, finished in asked)
    singles(fresh, 3)
    learn(fresh.context)
    metrics = fresh.jobs()[0].metrics
    assert metrics["resampled"] == {"prompts": 3, "answers": 12}
    assert metrics["rollouts"] == 6 + 12
    assert metrics["divergence"]["largest"] < 1e-4  # the replay of what was stored is what was drawn


def test_a_grader_that_fails_on_fresh_answers_leaves_the_first_one(world: World) -> None:
    fresh = world.with_settings(resample=4)
    answers = fresh.ask([f"broken {index}" for index in range(10)], grader=BROKEN, task="sums")
    ids = fresh.grade(answers)  # a client's grades
    assert learn(fresh.context) == "promoted"
    metrics = fresh.jobs()[0].metrics
    assert metrics["resampled"] == {"prompts": 0, "answers": 0}
    assert metrics["baselines"] == {"batch": len(ids)}


def test_the_cap_holds_for_answers_drawn_anew(world: World) -> None:
    fresh = world.with_settings(resample=4, key_share=0.4)
    singles(fresh, 6, asker="flood", name="flood")
    for name in ("one", "two"):
        fresh.grade(fresh.ask([f"{name} {index}" for index in range(6)], asker=name, task="sums"))
    assert learn(fresh.context) == "promoted"
    keys = fresh.jobs()[0].metrics["keys"]
    assert keys[fresh.key("flood")] / sum(keys.values()) <= 0.4
    left = 18 - sum(fresh.reasons().values())
    assert fresh.reasons() == {"learned": 18 - left}
    assert 0 < left < 6, "what is over the share waits"


@pytest.mark.parametrize(("overlong", "kept"), [("learn", True), ("mask", False)])
def test_a_fresh_answer_that_was_cut_short_is_kept_by_the_setting(world: World, overlong: str, kept: bool) -> None:
    answers = [finished for _, finished in world.ask([f"w{index}" for index in range(8)])]
    cut = next(one for one in answers if one.rollout.truncated)
    first = Sample(uuid4(), "", Graded(1.0, "a", 0, "k"), cut.rollout)
    settings = world.with_settings(overlong=overlong).settings
    assert (marked(first, cut, parse_grader(A_BYTE), settings) is not None) == kept


def test_single_grades_teach_by_fresh_groups(world: World) -> None:
    fresh = world.with_settings(resample=8, max_grades=256)
    shares = []
    for _ in range(5):
        answers = fresh.ask([f"{index} and {random.Random(index).random()}"[:9] for index in range(24)], grader=A_BYTE)
        shares.append(sum("e" in one.text.lower() for _, one in answers) / len(answers))
        while grade(fresh.context):
            pass
        if learn(fresh.context) != "promoted":
            break
    assert shares[-1] > shares[0] + 0.15, shares
