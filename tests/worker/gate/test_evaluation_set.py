"""The held-out file: read with errors that name the line, and recognised however it is asked."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from app.held_out_lines import FEW, sealed_of, texts_of
from tests.worker.world import make_model, write_heldout
from training.models.policy import load_policy
from worker.gate.evaluation_set import Question, evaluation_set, read_evaluation_set

GRADER = {"type": "string_check", "reference": "5", "operation": "eq"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    import torch

    directory = make_model(tmp_path_factory.mktemp("tokenizer"))
    return load_policy(directory, version=0, dtype=torch.float32, device="cpu").tokenizer


def test_the_first_questions_are_read_and_named_by_what_they_ask(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    path = write_heldout(tmp_path / "held.jsonl", ["What is 2 + 3?", "What is 4 + 1?", "What is 1 + 4?"], GRADER)
    two, three = read_evaluation_set(path, 2, tokenizer), read_evaluation_set(path, 200, tokenizer)
    assert [question.said for question in two.questions.values()] == ["What is 2 + 3?", "What is 4 + 1?"]
    assert list(two.questions) == list(three.questions)[:2]
    assert two == read_evaluation_set(path, 2, tokenizer)
    first = next(iter(two.questions.values()))
    assert tokenizer.decode(list(first.prompt_ids)) == "What is 2 + 3?"
    assert first.key != Question(first.said, first.prompt_ids, {**GRADER, "reference": "6"}).key


def questions_of(count: int) -> list[Question]:
    return [Question(f"question {index}", (index, 7), GRADER) for index in range(count)]


def test_a_share_is_sealed_and_stays_so_when_the_file_grows() -> None:
    few, many = evaluation_set(questions_of(200), 0.25), evaluation_set(questions_of(300), 0.25)
    assert 0.15 < len(few.sealed) / 200 < 0.35
    assert few.questions.keys() | few.sealed.keys() == {question.key for question in questions_of(200)}
    assert not few.questions.keys() & few.sealed.keys()
    assert few.sealed.keys() <= many.sealed.keys()
    assert few.questions.keys() <= many.questions.keys()
    secret = next(iter(few.sealed.values()))
    assert few.holds({"prompt": secret.said}, [1]), "nobody learns from what is sealed either"
    assert not evaluation_set(questions_of(200), 0.0).sealed
    assert not evaluation_set(questions_of(FEW - 1), 0.9).sealed
    assert sum(sealed_of([question.said for question in questions_of(200)], 0.25)) == len(few.sealed)


def test_regression_prompts_are_asked_besides_and_are_not_held_out() -> None:
    corrected = Question("the corrected one", (3, 3), GRADER)
    asked = evaluation_set(questions_of(40), 0.5, [corrected, questions_of(1)[0]])
    assert corrected.key in asked.questions
    assert not asked.holds({"prompt": "The corrected  one"}, [3, 3]), "its corrections go on teaching"
    everything = asked.questions.keys() | asked.sealed.keys()
    assert len(everything) == 41
    assert len(asked.questions) + len(asked.sealed) == 41


def test_a_question_is_recognised_in_any_dress(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    held = read_evaluation_set(write_heldout(tmp_path / "held.jsonl", ["What is 2 + 3?"], GRADER), 9, tokenizer)
    question = "  what is 2 +\n3? "
    for request in (
        {"prompt": question},
        {"prompt": ["something else", question]},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": question}]}]},
    ):
        assert held.holds(request, [9, 9]), request
    assert held.holds({"prompt": [[1, 2]]}, next(iter(held.questions.values())).prompt_ids)
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
        read_evaluation_set(path, 200, tokenizer)


def test_an_empty_file_is_told_apart_from_none(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = tmp_path / "held.jsonl"
    path.write_text("\n")
    with pytest.raises(ValueError, match="LEPO_HELDOUT"):
        read_evaluation_set(path, 200, tokenizer)
