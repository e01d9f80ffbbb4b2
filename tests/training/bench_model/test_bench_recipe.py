"""Lessons are of the train split, right without habits and wrong as often as habits say; a seed names the weights."""

import random
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice

import pytest
import torch

from training.bench_model.measurement import ANSWER_BUDGET, share
from training.bench_model.recipe import (
    BENCH_WORDS,
    CLEAN_HABITS,
    EDGES,
    bench_recipe,
    draw_lessons,
    lessons,
    warm_start_bench,
)
from training.bench_model.teacher import Habits, ways_of, work_chain, work_countdown, work_path
from training.demo_model.recipe import IGNORED
from training.demo_model.tokenizer import build_tokenizer
from training.graders.parse import parse_grader
from training.graders.verdict import Graded
from training.tasks.chained_arithmetic import Chain
from training.tasks.families import FAMILIES, find_family
from training.tasks.graph_path import Graph
from training.tasks.splits import Split, split_of

TINY = replace(bench_recipe(), hidden=16, layers=1, heads=2, feed_forward=16, steps=40, batch=6, warmup=5)
FORK = Graph(("BC", "AD", "AB"), "A", "C", "ABC")  # B leads on, D ends


def right_share(family: str, habits: Habits, count: int) -> float:
    right = 0.0
    for problem, answer in islice(lessons(random.Random(0), family, habits), count):
        verdict = parse_grader(problem.grader).grade(answer, 5.0)
        assert isinstance(verdict, Graded)
        right += verdict.value
    return right / count


@pytest.mark.parametrize("family", FAMILIES)
def test_a_teacher_without_habits_is_right_and_one_with_them_often_wrong(family: str) -> None:
    assert right_share(family, CLEAN_HABITS, 300) == 1.0
    assert 0.2 < right_share(family, Habits(), 300) < 0.9


def test_every_habit_has_its_effect() -> None:
    assert right_share("countdown", replace(CLEAN_HABITS, guess=1.0), 300) < 0.5
    assert right_share("chained_arithmetic", replace(CLEAN_HABITS, borrow=1.0), 300) < 0.5
    assert work_path(random.Random(0), FORK, 0.0).endswith("Answer: A B C")
    swapped = Graph(("DC", "AD", "AB"), "A", "C", "ADC")  # now D leads on, and B ends
    assert work_path(random.Random(0), swapped, 0.0).endswith("Answer: A D C")
    assert work_path(random.Random(0), swapped, 1.0).endswith("Answer: A B")


def test_answers_are_worded_as_documented() -> None:
    rng, chain = random.Random(0), Chain(47, (6, -8, 9))
    assert work_chain(rng, chain, CLEAN_HABITS) == "+ 6 53 - 8 45 + 9 54 Answer: 54"
    assert work_countdown(rng, chain, 0.0) == "+ 6 53 - 8 45 + 9 54 Answer: 47 + 6 - 8 + 9"
    assert work_path(rng, FORK, 0.0) == "AB B BC C Answer: A B C"
    assert len(ways_of(chain)) == 8


@pytest.mark.parametrize("family", FAMILIES)
def test_lessons_are_of_the_train_split_and_fit_the_budget_of_tokens(family: str) -> None:
    tokenizer = build_tokenizer(2048, BENCH_WORDS)
    for problem, answer in islice(lessons(random.Random(1), family, Habits()), 200):
        assert split_of(family, find_family(family).canonical(problem)) is Split.TRAIN
        ids = tokenizer.encode(answer, add_special_tokens=False)
        assert tokenizer.decode(ids) == answer
        assert len(ids) < ANSWER_BUDGET  # one more is the end
    assert all(len(tokenizer.encode(edge, add_special_tokens=False)) == 1 for edge in EDGES)


def test_a_batch_holds_as_many_of_each_family_and_only_answers_are_learned() -> None:
    tokenizer = build_tokenizer(2048, BENCH_WORDS)
    batch = draw_lessons(random.Random(0), slips=Habits(), recipe=TINY, tokenizer=tokenizer)
    texts = [str(tokenizer.decode(ids)) for ids in batch.ids_BT]
    assert [sum(word in text for text in texts) for word in ("Work out", "Reach", "Walk")] == [2, 2, 2]
    for text, labels in zip(texts, batch.labels_BT, strict=True):
        learned = str(tokenizer.decode(labels[labels != IGNORED]))
        assert learned == text.partition("assistant\n")[2].partition("<|pad|>")[0]


def test_a_seed_makes_the_same_weights_and_the_loss_falls() -> None:
    losses: list[float] = []
    first = weights(seed=0, losses=losses)
    torch.manual_seed(5)
    again, other = weights(seed=0), weights(seed=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def weights(seed: int, losses: list[float] | None = None) -> Mapping[str, torch.Tensor]:
    heard = [] if losses is None else losses
    model, _ = warm_start_bench(replace(TINY, seed=seed), lambda _step, loss: heard.append(loss))
    return model.state_dict()


def test_a_share_has_the_interval_of_a_mean() -> None:
    half = share([0.0, 1.0] * 50)
    assert half.mean == 0.5
    assert half.margin == pytest.approx(0.098)
    assert str(half) == "50.0% ± 9.8"
