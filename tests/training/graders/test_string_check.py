"""string_check: the operations hold where they say, on the part of the answer that the spec names."""

from typing import Any

import pytest

from training.graders.parse import parse_grader
from training.graders.verdict import Graded


def value(answer: str, **spec: Any) -> float:
    verdict = parse_grader({"type": "string_check", **spec}).grade(answer, 1.0)
    assert isinstance(verdict, Graded)
    return verdict.value


@pytest.mark.parametrize(
    ("operation", "answer", "reference", "expected"),
    [
        ("eq", " Paris\n", "Paris", 1.0),
        ("eq", "paris", "Paris", 0.0),
        ("eq", "Paris, France", "Paris", 0.0),
        ("ne", "Rome", "Paris", 1.0),
        ("ne", "Paris", "Paris", 0.0),
        ("like", "It is Paris.", "Paris", 1.0),
        ("like", "It is paris.", "Paris", 0.0),
        ("ilike", "It is PARIS.", "Paris", 1.0),
        ("ilike", "It is Rome.", "Paris", 0.0),
        ("ilike", "STRASSE", "straße", 1.0),
    ],
)
def test_operations(operation: str, answer: str, reference: str, expected: float) -> None:
    assert value(answer, operation=operation, reference=reference) == expected


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("53 45 54 Answer: 54", "54", 1.0),
        ("54 45 54 Answer: 53", "54", 0.0),
        ("so it is 1,234.50 dollars", "1234.5", 1.0),
        ("x = -7", "-7", 1.0),
        ("x = \N{MINUS SIGN}7", "-7", 1.0),
        ("10-7", "7", 1.0),
        ("007", "7", 1.0),
        ("-0", "0", 1.0),
        ("54.", "54", 1.0),
        ('"54"', "54", 1.0),
        ("[54]", "54", 1.0),
        ("`54`", "54", 1.0),
        ("\N{EURO SIGN}54", "54", 1.0),
        ("x=54", "54", 1.0),
        ("1,2", "12", 0.0),
        ("1, 2", "2", 1.0),
        ("12,34", "34", 1.0),
        ("1{,}234", "1234", 1.0),
        ("1\N{NARROW NO-BREAK SPACE}234", "1234", 1.0),
        ("3/2", "2", 0.0),
        ("3/2", "1.5", 1.0),
        ("1 1/2", "1.5", 1.0),
        ("-1\\frac{1}{2}", "-1.5", 1.0),
        ("5/2/2024", "2024", 1.0),
        ("2/6", "1/3", 1.0),
        ("2e-9", "9", 0.0),
        ("2e-9", "0.000000002", 1.0),
        (".5", "0.5", 1.0),
        (".5", "5", 0.0),
        ("7/0", "7", 0.0),
        ("no number", "54", 0.0),
        ("", "54", 0.0),
    ],
)
def test_last_number_is_compared_as_a_number(answer: str, reference: str, expected: float) -> None:
    assert value(answer, operation="eq", reference=reference, extract="last_number") == expected


def test_after_marker_takes_the_rest_of_the_line_after_the_last_marker() -> None:
    spec = {"operation": "eq", "reference": "54", "extract": "after_marker", "marker": "Answer:"}
    assert value("Answer: 53\nAnswer:  54 \nthanks", **spec) == 1.0
    assert value("54", **spec) == 0.0


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("12", "12"),
        (" The answer is 12. ", "12"),
        ("Answer: 12\nBecause it is.", "12"),
        ("**Final answer:** 12", "12"),
        ("answer =\n1 2\n3 4", "1 2\n3 4"),
        ("5 it is? <answer>6</answer> <answer> 12 </answer> so answer: 7", "12"),
        ("\\boxed{5} and \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{12", "\\boxed{12"),
        ('The answer is "the cat".', "the cat"),
        ("**12**", "12"),
        ("$5 and $6", "$5 and $6"),
        ("and so on ...", "and so on ..."),
        ("I cannot answer this", "I cannot answer this"),
    ],
)
def test_the_final_answer_is_what_a_text_gives_as_such(answer: str, found: str) -> None:
    assert value(answer, operation="eq", reference=found, extract="answer") == 1.0
    assert value(answer, operation="ne", reference=found, extract="answer") == 0.0


def test_a_full_stop_may_belong_to_the_answer() -> None:
    for reference in ("Smith has to go.", "Smith has to go"):
        assert value("The answer is Smith has to go.", operation="eq", reference=reference, extract="answer") == 1.0


def test_a_missing_part_is_a_zero_for_ne_too() -> None:
    spec = {"operation": "ne", "reference": "54", "extract": "after_marker", "marker": "Answer:"}
    assert value("53", **spec) == 0.0
    assert value("Answer: 53", **spec) == 1.0


def test_a_hostile_answer_of_a_megabyte_is_judged_in_linear_time() -> None:
    for piece in ("1,", "-", "9", "1.", ".1", "1e", "1 1/", "1,234", "\\boxed{", "<answer>", "Answer:"):
        answer = piece * (1_000_000 // len(piece))
        assert value(answer, operation="eq", reference="54", extract="last_number") == 0.0
        assert value(answer, operation="eq", reference="54", extract="after_marker", marker="Answer:") == 0.0
        assert value(answer, operation="eq", reference="54", extract="answer") == 0.0
