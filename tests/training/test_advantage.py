"""Baselines: groups sum to 0, trackers follow SPO's formula, single grades are centred, the choice is recorded."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from training.advantage import Graded, Mode, Tracker, choose_baseline, group_advantages, memory


def test_a_group_is_centred_and_scaled() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0])
    found = group_advantages(rewards)
    assert float(found.sum()) == pytest.approx(0.0, abs=1e-12)
    spread = math.sqrt(sum((reward - 0.6) ** 2 for reward in rewards.tolist()) / 4)  # sample deviation: G - 1
    assert found.tolist() == pytest.approx([(reward - 0.6) / (spread + 1e-4) for reward in rewards.tolist()])


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_a_group_of_equals_has_no_signal(value: float) -> None:
    assert group_advantages(torch.full((3,), value)).tolist() == [0.0, 0.0, 0.0]


def test_a_group_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="2 or more"):
        group_advantages(torch.tensor([1.0]))


@pytest.mark.parametrize(
    ("drift", "kept"), [(0.0, 0.96), (0.06 * math.log2(1 / 0.9), 0.9), (0.06, 0.875), (10.0, 0.875), (-1.0, 0.96)]
)
def test_memory_is_two_to_the_minus_drift_clipped(drift: float, kept: float) -> None:
    assert memory(drift) == pytest.approx(kept)


def test_a_tracker_follows_the_formula() -> None:
    start = Tracker.start(0.25, drift=1.0)
    assert (start.alpha, start.beta, start.value) == (2.0, 6.0, 0.25)
    after = start.updated(0.7, drift=1.01)
    rho = 2 ** (-0.01 / 0.06)
    assert after.alpha == pytest.approx(rho * 2.0 + 0.7)
    assert after.beta == pytest.approx(rho * 6.0 + 0.3)
    assert after.drift == 1.01


def test_a_tracker_finds_a_rate_that_changes() -> None:
    tracker = Tracker.start(0.5, drift=0.0)
    for _ in range(200):
        tracker = tracker.updated(1.0, drift=0.0)
    assert tracker.value > 0.99
    for _ in range(60):
        tracker = tracker.updated(0.0, drift=0.0)
    assert tracker.value < 0.15


@pytest.mark.parametrize("reward", [-0.1, 1.1])
def test_a_tracker_refuses_rewards_it_cannot_hold(reward: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        Tracker.start(0.5, 0.0).updated(reward, 0.0)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        choose_baseline([Graded(reward, None, 0, "k")], "tracker")
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        Tracker.start(reward, 0.0)


BATCH = [
    Graded(1.0, "p1", 3, "easy"),
    Graded(0.0, "p1", 3, "easy"),
    Graded(0.0, "p1", 3, "easy"),
    Graded(1.0, "p1", 2, "easy"),  # the same prompt under another policy: no group
    Graded(1.0, None, 3, "easy"),
    Graded(0.0, None, 3, "hard"),
    Graded(1.0, "p2", 3, "hard"),  # a group of one
]


def test_auto_takes_the_group_then_the_tracker_then_the_batch() -> None:
    found = choose_baseline(BATCH, trackers={"easy": Tracker(9.0, 1.0, 0.0)})
    assert found.baselines == ("group", "group", "group", "tracker", "tracker", "batch", "batch")
    assert float(found.values_B[:3].sum()) == pytest.approx(0.0, abs=1e-12)
    assert found.values_B[:3].tolist() == group_advantages(torch.tensor([1.0, 0.0, 0.0])).tolist()
    assert float(found.values_B[3:].sum()) == pytest.approx(0.0, abs=1e-12), "single grades are centred over the batch"
    mean = 4 / 7
    residuals = torch.tensor([1 - 0.9, 1 - 0.9, 0 - mean, 1 - mean], dtype=torch.float64)
    expected = (residuals - residuals.mean()) / (residuals.std() + 1e-4)
    torch.testing.assert_close(found.values_B[3:], expected)


def test_the_batch_baseline_standardises_everything() -> None:
    found = choose_baseline(BATCH, "batch")
    assert set(found.baselines) == {"batch"}
    rewards = torch.tensor([one.reward for one in BATCH], dtype=torch.float64)
    torch.testing.assert_close(found.values_B, (rewards - rewards.mean()) / (rewards.std() + 1e-4))


def test_the_tracker_baseline_expects_more_of_an_easy_key() -> None:
    trackers = {"easy": Tracker(9.0, 1.0, 0.0), "hard": Tracker(1.0, 9.0, 0.0)}
    batch = [Graded(1.0, None, 0, "easy"), Graded(1.0, None, 0, "hard"), Graded(0.0, None, 0, "easy")]
    found = choose_baseline([*batch, Graded(0.0, None, 0, "hard")], "tracker", trackers)
    easy_right, hard_right, easy_wrong, hard_wrong = found.values_B.tolist()
    assert hard_right > easy_right > hard_wrong > easy_wrong
    assert sum(found.values_B.tolist()) == pytest.approx(0.0, abs=1e-12)


def test_only_groups_leaves_single_grades_out_and_says_so() -> None:
    found = choose_baseline(BATCH, "group")
    assert found.baselines == ("group", "group", "group", "none", "none", "none", "none")
    assert found.values_B[3:].tolist() == [0.0] * 4


def test_a_lone_tracked_grade_is_measured_by_its_tracker() -> None:
    """There is no batch to standardise it over, so it keeps r - v; it was 0, and called "tracker" all the same."""
    found = choose_baseline([Graded(1.0, None, 0, "k")], trackers={"k": Tracker(1.0, 9.0, 0.0)})
    assert (found.values_B.tolist(), found.baselines) == ([pytest.approx(0.9)], ("tracker",))


def test_a_lone_grade_beside_a_group_is_measured_by_the_batch() -> None:
    pair = [Graded(1.0, "g", 0, "k"), Graded(0.0, "g", 0, "k")]
    found = choose_baseline([*pair, Graded(1.0, None, 0, "k")])
    assert found.baselines == ("group", "group", "batch")
    assert found.values_B.tolist()[2] == pytest.approx(1 - 2 / 3)


@pytest.mark.parametrize("mode", ["auto", "batch", "tracker"])
def test_a_grade_with_nothing_to_be_measured_by_says_so(mode: Any) -> None:
    found = choose_baseline([Graded(1.0, None, 0, "k")], mode)
    assert (found.values_B.tolist(), found.baselines) == ([0.0], ("none",))


def test_trackers_come_back_updated_and_are_not_changed_in_place() -> None:
    before = {"easy": Tracker(4.0, 4.0, 0.5)}
    found = choose_baseline(BATCH, trackers=before, drift=0.51)
    assert before == {"easy": Tracker(4.0, 4.0, 0.5)}
    expected = before["easy"]
    for one in BATCH[:5]:
        expected = expected.updated(one.reward, 0.51)
    assert found.trackers["easy"] == expected
    hard = Tracker.start(4 / 7, 0.51).updated(0.0, 0.51).updated(1.0, 0.51)
    assert found.trackers["hard"] == hard
    assert choose_baseline(BATCH, trackers=before, drift=2.0).trackers["easy"] != expected, "drift must have its effect"


def test_rewards_out_of_range_reach_the_batch_baseline_but_no_tracker() -> None:
    found = choose_baseline([Graded(-3.0, None, 0, "k"), Graded(5.0, None, 0, "k"), Graded(1.0, None, 0, "k")])
    assert found.values_B[0] < found.values_B[2] < found.values_B[1]
    assert found.trackers["k"] == Tracker.start(1.0, 0.0).updated(1.0, 0.0)


@pytest.mark.parametrize(
    ("graded", "mode", "message"),
    [
        ([], "auto", "nothing to learn"),
        (BATCH, "median", "baseline must be"),
        ([replace(BATCH[0], reward=math.nan)], "auto", "finite"),
    ],
)
def test_mistakes_are_named(graded: list[Graded], mode: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_baseline(graded, mode)


@pytest.mark.parametrize("mode", ["auto", "group", "batch", "tracker"])
def test_undivided_advantages_are_centred_and_keep_their_size(mode: Mode) -> None:
    """Dr. GRPO: one right of eight, or four of eight, weigh by how far they are from the mean, and no more."""
    graded = [Graded(float(one < 1), "rare", 0, "k") for one in range(8)]
    graded += [Graded(float(one < 4), "even", 0, "k") for one in range(8)]
    values = choose_baseline(graded, mode, divided=False).values_B
    mean = values.new_tensor([1 / 8] * 8 + [4 / 8] * 8) if mode in {"auto", "group"} else values.new_full((16,), 5 / 16)
    torch.testing.assert_close(values, values.new_tensor([one.reward for one in graded]) - mean)
    divided = choose_baseline(graded, mode).values_B
    assert float(divided.abs().max()) > 1.4
