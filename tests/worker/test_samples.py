"""From claims to a batch: each claimed answer is learned from, or left out for one named reason."""

import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import torch

from app.identifiers import uuid7
from app.store.claims import Claimed, Skipped
from app.store.grades import Reward
from app.store.tables import Interaction, StoredRequest
from training.advantage import Mode, Tracker
from training.codec import CODEC_VERSION, encode
from training.rollout import Rollout, StopReason
from training.sampling import Sampling
from worker.batch import build
from worker.samples import Filtered, Overlong, Rules, filter_samples, tracker_key

RULES = Rules(vocabulary=10, baseline="auto")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def rollout(tokens: int = 3, *, altered: bool = False, token: int = 9, logprob: float = -0.5) -> Rollout:
    return Rollout(
        prompt_ids_P=torch.tensor([7, 8], dtype=torch.int32),
        latent_ids_LK=torch.empty(0, 1, dtype=torch.int32),
        latent_weights_LK=torch.empty(0, 1),
        latent_logprobs_LK=torch.empty(0, 1),
        latent_log_mass_L=torch.empty(0),
        token_ids_T=torch.full((tokens,), token, dtype=torch.int32),
        token_logprobs_T=torch.full((tokens,), logprob),
        token_log_mass_T=torch.zeros(tokens),
        sampling=Sampling(),
        policy_version=5,
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
        asked=StoredRequest(
            body={"messages": [{"role": "user", "content": "hello"}]},
            prompts=["hello"],
            grader=grader,
            client_metadata=None if task is None else {"task": task},
        ),
    )
    given = Reward(reward, 1, NOW, NOW)
    return Claimed(row, given, None, graders, CODEC_VERSION, payload or encode(trace))


def filtered(claims: list[Claimed], rules: Rules = RULES) -> Filtered:
    return filter_samples(claims, {}, rules, None)


def reasons(found: Mapping[Any, Skipped]) -> list[str]:
    return [one.reason for one in found.values()]


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (claimed(payload=b"LEPOxxxx"), "unreadable"),
        (claimed(trace=rollout(token=10)), "unreadable"),
        (claimed(trace=rollout(logprob=float("nan"))), "unreadable"),
        (claimed(trace=rollout(altered=True)), "altered"),
        (claimed(trace=rollout(tokens=0)), "empty"),
    ],
)
def test_what_cannot_be_learned_from_says_why(one: Claimed, reason: str) -> None:
    good = claimed()
    found = filtered([one, good])
    assert found.skipped == {one.interaction.id: Skipped(reason)}
    assert [sample.interaction_id for sample in found.samples] == [good.interaction.id]


def test_a_tracker_takes_no_reward_outside_its_range_and_other_baselines_do() -> None:
    five_stars = claimed(5.0)
    assert filtered([five_stars]).skipped == {}
    assert reasons(filtered([five_stars], replace(RULES, baseline="tracker")).skipped) == ["reward_out_of_range"]


def test_every_claim_ends_in_one_place() -> None:
    rng = random.Random(2)
    claims = [
        claimed(
            float(rng.random() < 0.5),
            group=f"group {rng.randrange(12)}",
            trace=rollout(tokens=rng.randrange(3), altered=rng.random() < 0.1, token=rng.choice([9, 9, 9, 10])),
            graders=frozenset({rng.choice("abc")}),
        )
        for _ in range(80)
    ]
    found = filtered(claims)
    batch = build(found.samples, "auto", {}, 0.0)
    ids = [*found.skipped, *batch.skipped, *batch.waiting, *batch.ids]
    assert sorted(ids) == sorted(one.interaction.id for one in claims)
    assert {"altered", "empty", "unreadable"} <= set(reasons(found.skipped))


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
    batch = build(filtered([*mixed, *same, *single]).samples, mode, {}, 0.0)
    assert batch.baselines == baselines
    assert sum(batch.advantages) == pytest.approx(0.0, abs=1e-9)
    assert reasons(batch.skipped) == ([] if left_out is None else [left_out] * 2)


def test_groups_that_agree_weigh_in_the_mean_but_alone_they_are_no_batch() -> None:
    agreeing = [claimed(1.0, group="b"), claimed(1.0, group="b")]
    batch = build(filtered([claimed(1.0, group="a"), claimed(0.0, group="a"), *agreeing]).samples, "group", {}, 0.0)
    assert sorted(advantage != 0 for advantage in batch.advantages) == [False, False, True, True]
    alone = build(filtered(agreeing).samples, "group", {}, 0.0)
    assert alone.rollouts == []
    assert reasons(alone.skipped) == ["no_variance"] * 2


def test_single_answers_that_agree_wait_for_others_to_be_compared_with() -> None:
    liked = [claimed(1.0, group=str(index)) for index in range(3)]
    batch = build(filtered(liked).samples, "auto", {}, 0.0)
    assert (batch.rollouts, batch.skipped) == ([], {})
    assert batch.waiting == [one.interaction.id for one in liked]


def test_a_known_tracker_is_used_and_moves_with_the_grades() -> None:
    singles = [claimed(float(index % 2), group=str(index), task="sums") for index in range(4)]
    samples = filtered(singles).samples
    known = {"/sums/client": Tracker(6.0, 2.0, 0.0)}
    batch = build(samples, "auto", known, 0.01)
    assert batch.baselines == {"tracker": 4}
    after = batch.trackers["/sums/client"]
    assert after.drift == 0.01
    assert 0.5 < after.value < 0.75


def test_nothing_claimed_is_an_empty_batch() -> None:
    batch = build([], "auto", {}, 0.0)
    assert (batch.rollouts, batch.skipped, batch.trackers) == ([], {}, {})


@pytest.mark.parametrize(("overlong", "learned"), [("learn", 2), ("mask", 1)])
@pytest.mark.parametrize("ending", ["length", "deadline", "cancelled"])
def test_an_answer_that_was_cut_short_teaches_by_the_setting(
    overlong: Overlong, learned: int, ending: StopReason
) -> None:
    """Masked it is no sample, so it is in no baseline either; it can still be corrected."""
    cut = claimed(0.0, trace=replace(rollout(), stop_reason=ending))
    found = filtered([claimed(1.0), cut], Rules(10, "auto", overlong))
    assert len(found.samples) == learned
    assert reasons(found.skipped) == ["truncated"] * (2 - learned)
    assert cut.interaction.id in found.rollouts


def test_a_batch_by_dr_grpo_has_undivided_advantages() -> None:
    samples = filtered([claimed(1.0), *(claimed(0.0) for _ in range(3))]).samples
    assert build(samples, "group", {}, 0.0, divided=False).advantages == [0.75, -0.25, -0.25, -0.25]
    assert build(samples, "group", {}, 0.0).advantages[0] > 1.4
