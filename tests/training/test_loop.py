"""The loop: every answer is compared with the others to its problem, and what nobody graded teaches nothing."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch

from training.advantage import group_advantages
from training.loop import Group, compared, one_round
from training.models.head import take_apart
from training.models.policy import Policy
from training.replay import replay
from training.rollout import Rollout
from training.sample import sample
from training.sampling import Sampling
from training.update import Learner


@dataclass(frozen=True)
class One:
    rollout: Rollout
    text: str


@dataclass(frozen=True)
class Mark:
    value: float | None


@pytest.fixture(scope="module")
def rollout(policy: Policy) -> Rollout:
    return sample(policy, [4, 8, 9], Sampling(latent_length=2, seed=1), 8)


def marks_of(problem: str, answers: Sequence[One]) -> list[Mark]:
    return [Mark(None if one.text == "?" else float(one.text)) for one in answers]


def learned(answers: Sequence[One], advantages: Sequence[float]) -> list[tuple[str, float]]:
    return [(one.text, advantage) for one, advantage in zip(answers, advantages, strict=True)]


def test_answers_are_compared_within_their_problem(rollout: Rollout) -> None:
    texts = {"a": ["1", "0", "0", "?"], "b": ["0.5", "0.5"], "c": ["1", "?"], "d": ["?", "?"]}

    def drawn(problems: Sequence[str]) -> list[list[One]]:
        return [[One(rollout, text) for text in texts[problem]] for problem in problems]

    done = one_round(list(texts), drawn, marks_of, learned)
    first = group_advantages(torch.tensor([1.0, 0.0, 0.0])).tolist()
    expected = [*zip("100", first, strict=True), ("0.5", 0.0), ("0.5", 0.0), ("1", 0.0)]
    assert done.learned == expected
    assert [len(answers) for answers, _ in done.groups] == [4, 2, 2, 2]


def test_without_a_grade_nothing_is_learned(rollout: Rollout) -> None:
    def never(_: Sequence[One], __: Sequence[float]) -> None:
        raise AssertionError("there is nothing to learn from")

    assert one_round(["a"], lambda _: [[One(rollout, "?")]], marks_of, never).learned is None


def test_what_may_not_teach_is_left_out_before_the_comparison(rollout: Rollout) -> None:
    cut = replace(rollout, stop_reason="length")
    group = [One(replace(rollout, stop_reason="stop"), "1"), One(cut, "0"), One(replace(cut, stop_reason="stop"), "0")]
    done = one_round(["a"], lambda _: [group], marks_of, learned, keeps=lambda one: not one.rollout.truncated)
    assert done.learned is not None
    assert [text for text, _ in done.learned] == ["1", "0"]
    assert sum(advantage for _, advantage in done.learned) == pytest.approx(0.0)


def test_undivided_advantages_keep_their_size() -> None:
    assert compared([1.0, 0.0], divided=False) == [0.5, -0.5]
    assert compared([1.0, 0.0])[0] > 0.5
    assert compared([1.0]) == [0.0]


def test_parts_of_other_processes_are_learned_from_too(rollout: Rollout) -> None:
    def gathered(work: Callable[[], list[Group[One, Mark]]]) -> list[Group[One, Mark]]:
        return [*work(), ([One(rollout, "1"), One(rollout, "0")], [Mark(1.0), Mark(0.0)])]

    group = [One(rollout, "0"), One(rollout, "1")]
    done = one_round(["a"], lambda _: [group], marks_of, learned, together=gathered)
    assert done.learned is not None
    assert [text for text, _ in done.learned] == ["0", "1", "1", "0"]


def test_a_round_makes_the_right_answers_likelier(policy: Policy) -> None:
    """Sampled, graded, compared and learned from: what was rewarded is likelier under the weights that come out."""
    mine = replace(policy, model=copy.deepcopy(policy.model))
    learner = Learner(mine.model)

    def drawn(problems: Sequence[list[int]]) -> list[list[One]]:
        return [
            [One(sample(mine, ids, Sampling(latent_length=2, seed=seed), 6), "") for seed in range(6)]
            for ids in problems
        ]

    def grade(_: list[int], answers: Sequence[One]) -> list[Mark]:
        return [Mark(float(one.rollout.token_ids_T[0] % 2)) for one in answers]

    def learn(answers: Sequence[One], advantages: Sequence[float]) -> float:
        return learner.update([one.rollout for one in answers], advantages).kl

    done = one_round([[4, 8, 9], [5, 7]], drawn, grade, learn)
    assert done.learned is not None
    assert done.learned > 0
    (answers, marks), *_ = done.groups
    assert {mark.value for mark in marks} == {0.0, 1.0}
    before = [float(one.rollout.token_logprobs_T[0]) for one in answers]
    with torch.no_grad():
        after = replay(take_apart(mine.model), [one.rollout for one in answers]).token_logprobs_BT[:, 0].tolist()
    gains = [(new - old) * (1 if mark.value else -1) for new, old, mark in zip(after, before, marks, strict=True)]
    assert sum(gains) > 0
