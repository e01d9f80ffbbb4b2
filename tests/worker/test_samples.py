"""From claims to a batch: each claimed answer is learned from, or left out for one named reason."""

import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import torch
from worker.lessons import Rules, Sifted, charge, sift, tracker_key

from app.identifiers import uuid7
from app.store.claims import Claimed
from app.store.grades import Reward
from app.store.tables import Interaction
from training.advantage import Mode, Tracker
from training.codec import CODEC_VERSION, encode
from training.rollout import Rollout
from training.sampling import Sampling
from worker.batch import build

RULES = Rules(serving_version=5, baseline="auto", key_share=1.0)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def rollout(version: int = 5, tokens: int = 3, *, altered: bool = False) -> Rollout:
    return Rollout(
        prompt_ids_P=torch.tensor([7, 8], dtype=torch.int32),
        latent_ids_LK=torch.empty(0, 1, dtype=torch.int32),
        latent_weights_LK=torch.empty(0, 1),
        latent_logprobs_LK=torch.empty(0, 1),
        latent_log_mass_L=torch.empty(0),
        token_ids_T=torch.full((tokens,), 9, dtype=torch.int32),
        token_logprobs_T=torch.full((tokens,), -0.5),
        token_log_mass_T=torch.zeros(tokens),
        sampling=Sampling(),
        policy_version=version,
        stop_reason="stop",
        altered=altered,
    )


def claimed(
    reward: float = 1.0,
    *,
    group: str = "one",
    trace: Rollout | None = None,
    payload: bytes | None = None,
    asker: str | None = None,
    graders: frozenset[str] = frozenset(),
    grader: Mapping[str, Any] | None = None,
    task: str | None = None,
) -> Claimed:
    trace = trace or rollout()
    row = Interaction(
        id=uuid7(),
        completion_id=group,
        policy_version=trace.policy_version,
        api_key_id=asker,
        request={"messages": [{"role": "user", "content": "hello"}]},
        grader=grader,
        client_metadata=None if task is None else {"task": task},
    )
    return Claimed(row, Reward(reward, 1, NOW, NOW), graders, CODEC_VERSION, payload or encode(trace))


def sifted(claims: list[Claimed], rules: Rules = RULES) -> Sifted:
    return sift(claims, rules, None, random.Random(0))


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (claimed(payload=b"LEPOxxxx"), "unreadable"),
        (claimed(trace=rollout(version=6)), "rolled_back"),
        (claimed(trace=rollout(altered=True)), "altered"),
        (claimed(trace=rollout(tokens=0)), "empty"),
    ],
)
def test_what_cannot_be_learned_from_says_why(one: Claimed, reason: str) -> None:
    good = claimed()
    found = sifted([one, good])
    assert found.skipped == {one.interaction.id: reason}
    assert [lesson.interaction_id for lesson in found.lessons] == [good.interaction.id]


def test_a_tracker_takes_no_reward_outside_its_range_and_other_baselines_do() -> None:
    five_stars = claimed(5.0)
    assert sifted([five_stars]).skipped == {}
    assert sifted([five_stars], replace(RULES, baseline="tracker")).skipped == {
        five_stars.interaction.id: "reward_out_of_range"
    }


def test_every_claim_ends_in_one_place() -> None:
    rng = random.Random(2)
    claims = [
        claimed(
            float(rng.random() < 0.5),
            group=f"group {rng.randrange(12)}",
            trace=rollout(version=rng.randrange(3, 7), tokens=rng.randrange(3), altered=rng.random() < 0.1),
            graders=frozenset({rng.choice("abc")}),
        )
        for _ in range(80)
    ]
    found = sifted(claims, replace(RULES, key_share=0.4))
    batch = build(found.lessons, "auto", {}, 0.0)
    ids = [*found.skipped, *batch.skipped, *batch.ids]
    assert sorted(ids) == sorted(one.interaction.id for one in claims)
    assert {"altered", "empty", "rolled_back"} <= set(found.skipped.values())


def test_a_grade_is_charged_to_the_grader_not_the_asker() -> None:
    asked, graded, alone = claimed(asker="asker"), claimed(asker="asker", graders=frozenset({"g"})), claimed()
    assert list(charge([asked, graded, alone]).values()) == ["asker", "g", ""]


def test_a_flood_cannot_hide_behind_an_answer_somebody_else_graded_too() -> None:
    shared = claimed(graders=frozenset({"aaa", "flood"}))
    flood = [claimed(graders=frozenset({"flood"})) for _ in range(5)]
    assert charge([shared, *flood])[shared.interaction.id] == "flood"


def test_the_tracker_is_kept_by_who_asks_for_what_judged_by_what() -> None:
    assert tracker_key(claimed(asker="k1", task="sums", grader={"type": "math"})) == "k1/sums/math"
    assert tracker_key(claimed(asker="k1", graders=frozenset({"x"}), grader={"type": "math"})) == "k1//client"
    assert len(tracker_key(claimed(task="long" * 1000))) < 200


@pytest.mark.parametrize(
    ("mode", "baselines", "left_out"),
    [
        ("auto", {"group": 4, "batch": 2}, None),
        ("group", {"group": 4}, "no_group"),
        ("batch", {"batch": 6}, None),
    ],
)
def test_the_baseline_of_each_is_counted_and_what_has_none_is_left_out(
    mode: Mode, baselines: dict[str, int], left_out: str | None
) -> None:
    mixed = [claimed(1.0, group="a"), claimed(0.0, group="a")]
    same = [claimed(1.0, group="b"), claimed(1.0, group="b")]
    single = [claimed(1.0, group="c"), claimed(0.0, group="d")]
    batch = build(sifted([*mixed, *same, *single]).lessons, mode, {}, 0.0)
    assert batch.baselines == baselines
    assert sum(batch.advantages) == pytest.approx(0.0, abs=1e-9)
    assert (left_out in batch.skipped.values()) is (left_out is not None)


def test_groups_that_agree_weigh_in_the_mean_but_alone_they_are_no_batch() -> None:
    agreeing = [claimed(1.0, group="b"), claimed(1.0, group="b")]
    batch = build(sifted([claimed(1.0, group="a"), claimed(0.0, group="a"), *agreeing]).lessons, "group", {}, 0.0)
    assert sorted(advantage != 0 for advantage in batch.advantages) == [False, False, True, True]
    alone = build(sifted(agreeing).lessons, "group", {}, 0.0)
    assert alone.rollouts == []
    assert set(alone.skipped.values()) == {"no_variance"}


def test_a_known_tracker_is_used_and_moves_with_the_grades() -> None:
    singles = [claimed(float(index % 2), group=str(index), task="sums") for index in range(4)]
    lessons = sifted(singles).lessons
    known = {"/sums/client": Tracker(6.0, 2.0, 0.0)}
    batch = build(lessons, "auto", known, 0.01)
    assert batch.baselines == {"tracker": 4}
    after = batch.trackers["/sums/client"]
    assert after.drift == 0.01
    assert 0.5 < after.value < 0.75


def test_nothing_claimed_is_an_empty_batch() -> None:
    batch = build([], "auto", {}, 0.0)
    assert (batch.rollouts, batch.skipped, batch.trackers) == ([], {}, {})


def test_which_surplus_of_a_key_stays_out_is_drawn_by_the_seed() -> None:
    claims = [claimed(group=str(index), graders=frozenset({"flood"})) for index in range(30)]
    claims += [claimed(group=f"h{index}", graders=frozenset({"honest"})) for index in range(5)]

    def kept(seed: int) -> set[UUID]:
        found = sift(claims, replace(RULES, key_share=0.5), None, random.Random(seed))
        assert list(found.skipped.values()) == ["key_cap"] * 25
        return {lesson.interaction_id for lesson in found.lessons}

    assert kept(1) == kept(1)
    assert kept(1) != kept(2)
