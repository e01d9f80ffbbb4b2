"""The committed model: stock files that stock loaders open, small, and with the room to learn that its card claims."""

from typing import Any, cast

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from training.demo_model.location import WEIGHTS
from training.demo_model.measurement import answer_batch, measure
from training.demo_model.model_card import draw_test
from training.sampling import Sampling

Pair = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@pytest.fixture(scope="module")
def demo() -> Pair:
    return AutoModelForCausalLM.from_pretrained(WEIGHTS), AutoTokenizer.from_pretrained(WEIGHTS)


def prompt_ids(demo: Pair, expression: str) -> torch.Tensor:
    messages = [{"role": "user", "content": f"Work out {expression} step by step."}]
    ids = demo[1].apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return torch.tensor([ids])


def test_it_is_small_and_safe_to_open(demo: Pair) -> None:
    files = {path.name for path in WEIGHTS.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= files
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in files)
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) < 5_000_000
    assert all(weight.isfinite().all() for weight in demo[0].parameters())
    assert demo[0].config.vocab_size == len(demo[1])


@pytest.mark.parametrize("latent_length", [0, 4])
def test_it_solves_a_third_to_two_thirds_and_more_in_eight_tries(demo: Pair, latent_length: int) -> None:
    accuracy = measure(*demo, draw_test(150), Sampling(latent_length=latent_length), tries=8)
    assert 0.30 <= accuracy.average <= 0.65
    assert accuracy.best >= 1.4 * accuracy.average


def test_its_greedy_answers_leave_room_too(demo: Pair) -> None:
    greedy = measure(*demo, draw_test(150), Sampling(temperature=0.0), tries=1).average
    assert 0.2 <= greedy <= 0.8


def test_greedy_tokens_are_those_of_stock_generate(demo: Pair) -> None:
    ids = prompt_ids(demo, "47 + 6 - 8 + 9 - 3")
    ours = answer_batch(demo[0], ids, Sampling(temperature=0.0), torch.tensor([0]))
    model = cast("Any", demo[0])  # its stubs hide `generate`
    stock = model.generate(ids, do_sample=False, max_new_tokens=ours.shape[1])
    assert ours[0].tolist() == stock[0, ids.shape[1] :].tolist()


def test_latent_steps_leave_the_marker_and_the_result_in_the_text(demo: Pair) -> None:
    ids = prompt_ids(demo, "47 + 6 - 8 + 9 - 3").repeat(64, 1)
    tokens = answer_batch(demo[0], ids, Sampling(latent_length=4), torch.arange(64))
    texts = demo[1].batch_decode(tokens, skip_special_tokens=True)
    assert sum("Answer: " in text for text in texts) >= 60


def test_an_answer_does_not_depend_on_its_batch_mates(demo: Pair) -> None:
    ids = torch.cat([prompt_ids(demo, "47 + 6 - 8 + 9 - 3"), prompt_ids(demo, "12 + 9 + 8 + 7 + 6")])
    seeds = torch.tensor([5, 6])
    together = answer_batch(demo[0], ids, Sampling(latent_length=4), seeds)
    for row in range(2):
        alone = answer_batch(demo[0], ids[row : row + 1], Sampling(latent_length=4), seeds[row : row + 1])
        assert alone[0].tolist() == together[row, : alone.shape[1]].tolist()
