"""Lessons are of the train split, right without habits and wrong as often as habits say; a seed names the weights."""

import random
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice

import pytest
import torch

from training.bench_model.lessons import WIDTH, draw_lessons, lesson_loss, lessons
from training.bench_model.measurement import ANSWER_BUDGET, share
from training.bench_model.recipe import BENCH_WORDS, CLEAN_HABITS, EDGES, bench_recipe, warm_start_bench
from training.bench_model.teacher import (
    THOUGHTS,
    ChainThinker,
    CountdownThinker,
    Habits,
    PathThinker,
    ReachThinker,
    Thinker,
    think,
    ways_of,
)
from training.demo_model.recipe import build_model
from training.demo_model.teacher import Slips
from training.demo_model.tokenizer import build_tokenizer
from training.graders.parse import parse_grader
from training.graders.verdict import Graded
from training.tasks.chained_arithmetic import Chain
from training.tasks.families import FAMILIES, find_family
from training.tasks.graph_path import Graph
from training.tasks.reachability import Forest
from training.tasks.splits import Split, split_of

TINY = replace(bench_recipe(), hidden=16, layers=1, heads=2, feed_forward=16, steps=40, batch=12, warmup=5)
GRAPH = Graph(("AB", "AC", "BD", "BE", "CF", "EG", "HG", "IG", "GJ", "KJ"), "A", "J", "ABEGJ")
FOREST = Forest(("BC", "AD", "AB", "DG", "BE", "HI", "DF", "HJ", "JK", "IM", "IN", "JO"), "A", ("E", "F", "M"))
CHAIN = Chain(47, (6, -8, 9, -1))
SURE = Slips(carry=0.0, borrow=0.0, digit=0.0)


def right_share(family: str, habits: Habits, count: int) -> float:
    right = 0.0
    for lesson in islice(lessons(random.Random(0), family, habits), count):
        verdict = parse_grader(lesson.problem.grader).grade(lesson.answer, 5.0)
        assert isinstance(verdict, Graded)
        right += verdict.value
    return right / count


def test_habits_make_the_teacher_wrong() -> None:
    assert right_share("chained_arithmetic", CLEAN_HABITS, 300) == right_share("countdown", CLEAN_HABITS, 300) == 1.0
    assert 0.2 < right_share("chained_arithmetic", Habits(), 300) < 0.6
    assert right_share("chained_arithmetic", replace(CLEAN_HABITS, borrow=1.0), 300) < 0.5
    assert right_share("chained_arithmetic", replace(CLEAN_HABITS, carry=1.0), 300) < 0.5
    assert right_share("countdown", replace(CLEAN_HABITS, guess=1.0), 300) < 0.5


def concluded(thinker: Thinker, tau: float | None, goal: str, draws: int = 300) -> float:
    rng = random.Random(0)
    thoughts = [[one.thought for one in think(rng, thinker, tau)] for _ in range(draws)]
    return sum(thinker.conclude(rng, one) == goal for one in thoughts) / draws


def test_who_holds_all_ways_in_mind_finds_the_path_that_who_follows_one_finds_by_luck() -> None:
    goal = "Answer: A B E G J"
    assert 0.2 < concluded(PathThinker(GRAPH), None, goal) < 0.7
    assert concluded(PathThinker(GRAPH), 1.0, goal) > 0.85


def test_who_holds_all_ways_in_mind_knows_all_that_is_reached() -> None:
    thinker = ReachThinker(FOREST)
    assert concluded(thinker, None, "Answer: E F") < 0.4
    assert concluded(thinker, 1.0, "Answer: E F") > 0.6
    assert concluded(thinker, 5.0, "Answer: E F") == 1.0


def test_answers_are_worded_as_documented() -> None:
    rng = random.Random(0)
    chained = think(rng, ChainThinker(CHAIN, SURE), None)
    assert [one.thought for one in chained] == [{"53 ": 1.0}, {"45 ": 1.0}, {"54 ": 1.0}, {"53 ": 1.0}]
    assert ChainThinker(CHAIN, SURE).conclude(rng, [one.thought for one in chained]) == "Answer: 53"
    in_mind = [{"54 ": 1.0}, {"45 ": 1.0}, {"53 ": 1.0}, {"47 ": 1.0}]
    assert CountdownThinker(CHAIN, 0.0).conclude(rng, in_mind) == "Answer: 47 + 6 - 8 + 9 - 1"
    walked = [{f"{node} ": 1.0} for node in "GEBA"]
    assert PathThinker(GRAPH).conclude(rng, walked) == "Answer: A B E G J"
    assert len(ways_of(CHAIN)) == 16
    went = [{"D ": 0.5, "B ": 0.5}, {"F ": 0.4, "G ": 0.2, "C ": 0.2, "E ": 0.2}, {"F ": 1.0}, {"F ": 1.0}]
    assert all(ReachThinker(FOREST).conclude(rng, went) == "Answer: E F" for _ in range(5))


def test_only_what_was_asked_about_stays_in_mind() -> None:
    one, two, three, four = think(random.Random(0), ReachThinker(FOREST), 1.0)
    assert one.expected == {"B ": 0.5, "D ": 0.5}
    assert set(two.expected) == {"C ", "E ", "F ", "G "}
    assert set(three.expected) == set(four.expected) == {"E ", "F "}
    assert three.expected["E "] == pytest.approx(two.thought["E "] / (two.thought["E "] + two.thought["F "]))


def test_what_follows_a_mixture_is_the_mixture_of_what_follows_its_parts() -> None:
    first, second, third, fourth = think(random.Random(3), PathThinker(GRAPH), 1.0)
    assert first.expected == {"G ": 0.5, "K ": 0.5}
    assert second.expected == pytest.approx({"E ": 1 / 3, "H ": 1 / 3, "I ": 1 / 3})  # nothing leads to K: it fades
    assert set(second.thought) == {"E ", "H ", "I "}
    assert third.expected == {"B ": 1.0}  # of E, H and I only E is reached from anywhere
    assert fourth.expected == {"A ": 1.0}
    slipping = ChainThinker(Chain(47, (6, -8, 9, -1)), Slips(carry=0.25, borrow=0.0, digit=0.0))
    begun, followed = think(random.Random(0), slipping, 1.0)[:2]
    assert begun.expected == {"53 ": 0.75, "43 ": 0.25}
    assert followed.expected == pytest.approx({"45 ": begun.thought["53 "], "35 ": begun.thought["43 "]})
    assert sum(begun.thought.values()) == pytest.approx(1.0)


def test_words_are_drawn_as_often_as_they_are_expected() -> None:
    rng, thinker = random.Random(0), ChainThinker(CHAIN, Slips(carry=0.25, borrow=0.0, digit=0.1))
    drawn = [next(iter(think(rng, thinker, None)[0].thought)) for _ in range(4000)]
    expected = think(rng, thinker, None)[0].expected
    assert sum(expected.values()) == pytest.approx(1.0)
    for word, probability in expected.items():
        assert drawn.count(word) / 4000 == pytest.approx(probability, abs=0.03)


@pytest.mark.parametrize("family", FAMILIES)
def test_lessons_are_of_the_train_split_and_fit_the_budget_of_tokens(family: str) -> None:
    tokenizer = build_tokenizer(2048, BENCH_WORDS)
    for lesson in islice(lessons(random.Random(1), family, Habits()), 200):
        assert split_of(family, find_family(family).canonical(lesson.problem)) is Split.TRAIN
        ids = tokenizer.encode(lesson.answer, add_special_tokens=False)
        assert tokenizer.decode(ids) == lesson.answer
        assert len(lesson.thoughts) == THOUGHTS
        assert THOUGHTS + len(ids) < ANSWER_BUDGET  # one more is the end
        words = {word for one in lesson.thoughts for word in one.expected}
        assert all(len(tokenizer.encode(word, add_special_tokens=False)) == 1 for word in words)
    assert all(len(tokenizer.encode(edge, add_special_tokens=False)) == 1 for edge in EDGES)


def test_a_batch_holds_each_familys_share_and_teaches_thoughts_and_answers_alone() -> None:
    tokenizer = build_tokenizer(2048, BENCH_WORDS)
    batch = draw_lessons(random.Random(0), Habits(), 12, tokenizer)
    assert batch.ids_BTW.shape[2] == WIDTH
    torch.testing.assert_close(batch.weights_BTW.sum(-1), torch.ones(batch.ids_BTW.shape[:2]))
    texts = [str(tokenizer.decode(ids)) for ids in batch.ids_BTW[:, :, 0]]
    counts = [sum(word in text for text in texts) for word in ("Work out", "Reach", "Walk", "Follow")]
    assert counts == [2, 2, 4, 4]
    taught_BT = batch.shares_BTW.sum(-1)
    for row, text in enumerate(texts):
        begins = len(tokenizer.encode(text.partition("assistant\n")[0] + "assistant\n", add_special_tokens=False))
        ends = text.partition("<|pad|>")[0]
        length = len(tokenizer.encode(ends, add_special_tokens=False))
        assert taught_BT[row].nonzero().flatten().tolist() == list(range(begins - 1, length - 1))
        torch.testing.assert_close(taught_BT[row, begins - 1 : length - 1], torch.ones(length - begins))


def test_the_loss_is_the_cross_entropy_of_mixed_inputs() -> None:
    tokenizer = build_tokenizer(2048, BENCH_WORDS)
    model = build_model(TINY, tokenizer)
    batch = draw_lessons(random.Random(0), Habits(), 6, tokenizer)
    inputs_BTD = (batch.weights_BTW[..., None] * model.get_input_embeddings()(batch.ids_BTW)).sum(2)
    logprobs_BTV = model(inputs_embeds=inputs_BTD, use_cache=False).logits.log_softmax(-1)
    every_BT = -(batch.shares_BTW * logprobs_BTV.gather(2, batch.taught_BTW)).sum(-1)
    expected = every_BT.sum() / (batch.shares_BTW.sum(-1) > 0).sum()
    torch.testing.assert_close(lesson_loss(model, batch), expected)


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
