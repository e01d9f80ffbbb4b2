"""The held-out file: read with errors that name the line, and recognised however it is asked."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase
from worker.heldout import read_heldout, texts_of

from tests.worker.world import make_model, write_heldout
from training.policy import load_policy

GRADER = {"type": "string_check", "reference": "5", "operation": "eq"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    import torch

    directory = make_model(tmp_path_factory.mktemp("tokenizer"))
    return load_policy(directory, version=0, dtype=torch.float32, device="cpu").tokenizer


def test_the_first_questions_are_read_and_named_by_a_digest(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = write_heldout(tmp_path / "held.jsonl", ["What is 2 + 3?", "What is 4 + 1?", "What is 1 + 4?"], GRADER)
    two, three = read_heldout(path, 2, tokenizer), read_heldout(path, 200, tokenizer)
    assert [question.said for question in two.questions] == ["What is 2 + 3?", "What is 4 + 1?"]
    assert two.digest != three.digest
    assert two == read_heldout(path, 2, tokenizer)
    assert tokenizer.decode(list(two.questions[0].prompt_ids)) == "What is 2 + 3?"


def test_a_question_is_recognised_in_any_dress(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    held = read_heldout(write_heldout(tmp_path / "held.jsonl", ["What is 2 + 3?"], GRADER), 9, tokenizer)
    question = "  what is 2 +\n3? "
    for request in (
        {"prompt": question},
        {"prompt": ["something else", question]},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": question}]}]},
    ):
        assert held.holds(request, [9, 9]), request
    assert held.holds({"prompt": [[1, 2]]}, held.questions[0].prompt_ids)
    assert not held.holds({"messages": [{"role": "user", "content": "What is 2 + 33?"}]}, [9, 9])
    assert texts_of({"messages": [{"role": "assistant", "content": None}]}) == []


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[]",
        '{"prompt": "What?"}',
        '{"grader": {"type": "string_check", "reference": "5", "operation": "eq"}}',
        '{"prompt": "What?", "grader": {"type": "astrology"}}',
        '{"prompt": "", "grader": {"type": "string_check", "reference": "5", "operation": "eq"}}',
    ],
)
def test_a_bad_line_is_named(line: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = write_heldout(tmp_path / "held.jsonl", ["What is 2 + 3?"], GRADER)
    path.write_text(path.read_text() + "\n" + line + "\n")
    with pytest.raises(ValueError, match=r"held\.jsonl:3"):
        read_heldout(path, 200, tokenizer)


def test_an_empty_file_is_told_apart_from_none(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = tmp_path / "held.jsonl"
    path.write_text("\n")
    with pytest.raises(ValueError, match="LEPO_HELDOUT"):
        read_heldout(path, 200, tokenizer)
