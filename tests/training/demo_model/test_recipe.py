"""The recipe is deterministic, never sees a held-out chain, and its teacher slips as often as it says."""

import random
from dataclasses import replace

import pytest
import torch

from training.demo_model.recipe import IGNORED, Recipe, draw_batch, warm_start
from training.demo_model.teacher import Slips, work_out, work_step
from training.demo_model.tokenizer import build_tokenizer
from training.tasks.chained_arithmetic import NAME, Chain, draw_chain
from training.tasks.splits import Split, split_of

TINY = Recipe(hidden=16, layers=1, heads=2, feed_forward=16, steps=60, batch=8, warmup=5)
CARRIED, BORROWED = Slips(carry=1.0, borrow=0.0, digit=0.0), Slips(carry=0.0, borrow=1.0, digit=0.0)
NONE = Slips(carry=0.0, borrow=0.0, digit=0.0)


def weights(recipe: Recipe) -> tuple[dict[str, torch.Tensor], list[float]]:
    losses: list[float] = []
    model, _ = warm_start(recipe, lambda _step, loss: losses.append(loss))
    return model.state_dict(), losses


def test_a_seed_makes_the_same_weights_and_another_seed_others() -> None:
    short = replace(TINY, steps=3)
    torch.manual_seed(1)
    first, _ = weights(short)
    torch.manual_seed(2)
    again, _ = weights(short)
    other, _ = weights(replace(short, seed=1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_the_loss_falls_and_every_step_is_heard() -> None:
    _, losses = weights(TINY)
    assert len(losses) == TINY.steps
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_lessons_are_of_the_train_split_and_only_answers_are_learned() -> None:
    tokenizer = build_tokenizer(2048)
    rng = random.Random(0)
    for _ in range(30):
        batch = draw_batch(rng, replace(TINY, system_share=0.5), Slips(), tokenizer)
        for ids, labels in zip(batch.ids_BT, batch.labels_BT, strict=True):
            text = str(tokenizer.decode(ids))
            expression = text.partition("Work out ")[2].partition(" step by step.")[0]
            assert split_of(NAME, expression) is Split.TRAIN
            learned = str(tokenizer.decode(labels[labels != IGNORED]))
            assert learned == text.partition("assistant\n")[2].partition("<|pad|>")[0]
            assert learned.endswith("<|im_end|>")


def test_a_teacher_without_slips_is_right() -> None:
    rng = random.Random(0)
    for _ in range(500):
        chain = draw_chain(rng, 5)
        assert work_out(rng, chain, NONE).endswith(f"Answer: {chain.value()}")
    assert work_out(rng, Chain(47, (6, -8, 9)), NONE) == "53 45 54 Answer: 54"


@pytest.mark.parametrize(
    ("value", "term", "slips", "written"),
    [
        (47, 6, CARRIED, 43),
        (47, 6, BORROWED, 53),
        (53, -8, BORROWED, 55),
        (53, -8, CARRIED, 45),
        (42, 6, CARRIED, 48),
        (48, -6, BORROWED, 42),
        (95, 9, NONE, 4),
    ],
)
def test_a_slip_is_a_forgotten_ten(value: int, term: int, slips: Slips, written: int) -> None:
    assert work_step(random.Random(0), value, term, slips) == written


def test_slips_are_as_frequent_as_they_say() -> None:
    rng, slips = random.Random(0), Slips(carry=0.15, borrow=0.55, digit=0.0)
    forgotten = sum(work_step(rng, 53, -8, slips) == 55 for _ in range(10_000))
    assert forgotten == pytest.approx(5_500, abs=250)  # five standard deviations
    forgotten = sum(work_step(rng, 47, 6, slips) == 43 for _ in range(10_000))
    assert forgotten == pytest.approx(1_500, abs=180)
