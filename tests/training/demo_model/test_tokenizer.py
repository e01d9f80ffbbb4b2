"""The tokenizer gives back every text, writes a number as one token, and is what a stock loader finds on disk."""

import random
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from training.demo_model.location import WEIGHTS
from training.demo_model.tokenizer import ANSWER, build_tokenizer

TOKENIZER = build_tokenizer(2048)
OPEN = "<|im_start|>assistant\n"


def any_text(rng: random.Random) -> str:
    ranges = ((0, 0x80), (0x30, 0x3A), (0x20, 0x21), (0xA0, 0x250), (0x4E00, 0x4F00), (0x1F600, 0x1F640))
    return "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randrange(60)))


def test_any_text_comes_back_unchanged() -> None:
    rng = random.Random(0)
    for text in ["", " ", "  \n\t ", "a  b", "12345 007", "+ 6 - 88", "\x00", *(any_text(rng) for _ in range(300))]:
        assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_each_step_of_an_answer_is_one_token() -> None:
    for number in range(100):
        assert len(TOKENIZER.encode(f"{number} ")) == 1
    assert len(TOKENIZER.encode("53 45 6 54 ")) == 4
    assert len(TOKENIZER.encode(f"53 45 {ANSWER}54")) == 4
    assert len(TOKENIZER.encode("47 + 6 - 8 + 9 ")) == 4


def test_special_tokens_are_three_and_distinct() -> None:
    ids = {TOKENIZER.bos_token_id, TOKENIZER.eos_token_id, TOKENIZER.pad_token_id}
    assert len(ids) == 3
    assert None not in ids


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([{"role": "user", "content": "hi"}], "<|im_start|>user\nhi<|im_end|>\n"),
        (
            [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}],
            "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n",
        ),
        (
            [
                {"role": "user", "content": "1"},
                {"role": "assistant", "content": "2"},
                {"role": "user", "content": [{"type": "text", "text": "3"}, {"type": "text", "text": "4"}]},
            ],
            "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n<|im_start|>user\n34<|im_end|>\n",
        ),
        ([{"role": "tool", "content": None}], "<|im_start|>tool\n<|im_end|>\n"),
    ],
)
def test_conversations_of_every_shape(messages: list[dict[str, Any]], expected: str) -> None:
    whole = TOKENIZER.apply_chat_template(messages, tokenize=False)
    asked = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert whole == f"<|bos|>{expected}"
    assert asked == f"<|bos|>{expected}{OPEN}"


def test_the_committed_tokenizer_is_this_one() -> None:
    loaded = AutoTokenizer.from_pretrained(WEIGHTS)
    assert loaded.get_vocab() == TOKENIZER.get_vocab()
    assert loaded.chat_template == TOKENIZER.chat_template
    rng = random.Random(1)
    for text in ["Work out 47 + 6 - 8 + 9 step by step.", *(any_text(rng) for _ in range(50))]:
        assert loaded.encode(text) == TOKENIZER.encode(text)


def test_tokenizer_files_survive_a_round_trip(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).encode("Work out 4 + 6 ") == TOKENIZER.encode("Work out 4 + 6 ")
