"""Turns of an episode: one voice among episodes, each its share, and no loss on what stands in a prompt."""

from dataclasses import replace

import pytest
import torch

from training.advantage import Graded, Tracker, choose_baseline, group_advantages
from training.models.head import take_apart
from training.replay import replay
from training.rollout import Rollout
from training.sampling import Sampling

from .rollouts import backward, gradients, group, relative_difference, tiny

QUESTION = [5, 9, 8, 7, 6]
TOOL_OUTPUT = [3, 11, 12, 13, 14, 15]


def turns(episode: str, reward: float, weights: list[float], version: int = 3, prompt: str = "p") -> list[Graded]:
    return [Graded(reward, prompt, version, "k", episode, weight) for weight in weights]


def test_episodes_are_compared_with_episodes_however_many_turns_they_have() -> None:
    graded = [*turns("a", 1.0, [1.0]), *turns("b", 0.0, [1.0] * 4), *turns("c", 1.0, [1.0, 1.0])]
    found = choose_baseline(graded)
    assert set(found.baselines) == {"group"}
    right, *wrong, again, last = found.values_B.tolist()
    assert right == again == last > 0 > wrong[0]
    assert wrong == [wrong[0]] * 4
    assert float(found.values_B.sum()) == pytest.approx(0.0, abs=1e-12), "long episodes do not push all turns one way"


def test_a_turn_gets_its_share() -> None:
    graded = [*turns("a", 1.0, [0.25, 0.5, 1.0]), *turns("b", 0.0, [0.25, 0.5, 1.0])]
    found = choose_baseline(graded, divided=False)
    assert found.values_B.tolist() == pytest.approx([0.125, 0.25, 0.5, -0.125, -0.25, -0.5])
    assert float(choose_baseline(graded).values_B.sum()) == pytest.approx(0.0, abs=1e-12)
    rewards, weights = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1.0, 0.5, 1.0])
    mean = 1.5 / 2.5
    centred = group_advantages(rewards, weights, divided=False)
    assert centred.tolist() == pytest.approx([1 - mean, 0.5 * (1 - mean), -mean])
    even = group_advantages(rewards, torch.full((3,), 0.5))
    assert even.tolist() == pytest.approx((0.5 * group_advantages(rewards)).tolist()), (
        "the spread is no matter of weight"
    )


def test_the_turns_of_a_lone_episode_are_no_group() -> None:
    lone = turns("a", 1.0, [1.0, 1.0])
    assert choose_baseline(lone).baselines == ("none", "none"), "its own mean says nothing of it"
    assert choose_baseline(lone, "group").baselines == ("none", "none")
    tracked = choose_baseline(lone, trackers={"k": Tracker(1.0, 9.0, 0.0)})
    assert (tracked.values_B.tolist(), set(tracked.baselines)) == ([pytest.approx(0.9)] * 2, {"tracker"})
    other = turns("b", 0.0, [1.0], version=4)
    beside = choose_baseline([*lone, *other])
    assert set(beside.baselines) == {"batch"}, "under another policy it is no comparison, but of the batch"
    assert beside.values_B[0] == beside.values_B[1] > 0 > beside.values_B[2]


def test_a_tracker_hears_an_episode_once() -> None:
    before = {"k": Tracker(1.0, 9.0, 0.0)}
    once = choose_baseline(turns("a", 1.0, [1.0]), trackers=before).trackers
    assert choose_baseline(turns("a", 1.0, [1.0] * 5), trackers=before).trackers == once
    assert choose_baseline([*turns("a", 1.0, [1.0]), *turns("b", 1.0, [1.0])], trackers=before).trackers != once


def episode() -> list[Rollout]:
    """Two turns: the second's prompt holds the first with its answer, and what a tool said."""
    model = tiny(dtype=torch.float64)
    first = group(model, 1, Sampling(latent_length=0, seed=1), QUESTION, 6)[0]
    prompt = [*QUESTION, *first.token_ids_T.tolist(), *TOOL_OUTPUT]
    return [first, group(model, 1, Sampling(latent_length=0, seed=2), prompt, 7)[0]]


def test_what_a_tool_said_is_read_and_never_in_the_loss() -> None:
    """The gradient is that of a stock model whose labels are blank but for what each turn drew itself."""
    rollouts = episode()
    model = tiny(dtype=torch.float64)
    replayed = replay(take_apart(model), rollouts, positions=1000)
    drawn = [replayed.token_logprobs_BT[row, : one.answer_length].sum() for row, one in enumerate(rollouts)]
    backward(2.0 * drawn[0] - drawn[1])
    ours = gradients(model)

    stock = tiny(dtype=torch.float64)
    expected = []
    for one in rollouts:
        ids = torch.cat([one.prompt_ids_P, one.token_ids_T]).long()
        labels = ids.clone()
        labels[: len(one.prompt_ids_P)] = -100
        inputs = stock.get_input_embeddings()(ids[None]).detach()  # executed inputs are given, not learned
        logits = stock(inputs_embeds=inputs).logits[0]
        expected.append(-torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="sum"))
    backward(2.0 * expected[0] - expected[1])
    for mine, theirs in zip(drawn, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    assert relative_difference(ours, gradients(stock)) < 1e-6

    said_otherwise = rollouts[1].prompt_ids_P.clone()
    said_otherwise[-len(TOOL_OUTPUT) :] += 1
    with torch.no_grad():
        other = replay(take_apart(model), [replace(rollouts[1], prompt_ids_P=said_otherwise)], positions=1000)
    assert other.token_logprobs_BT.shape[1] == rollouts[1].answer_length, "no position more"
    assert not torch.allclose(other.token_logprobs_BT[0], replayed.token_logprobs_BT[1, : rollouts[1].answer_length])
