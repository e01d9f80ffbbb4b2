"""text_similarity follows the overlap; multi is its formula, and never hides that a part failed or had no grade."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from training.graders.children import Children
from training.graders.grader import Grader
from training.graders.math_answer import MAX_ANSWER
from training.graders.parse import parse_grader
from training.graders.verdict import Failed, Graded, NoGrade, Verdict

SECONDS = 20.0
RIGHT = {"type": "string_check", "reference": "54", "operation": "eq", "extract": "last_number"}
POLITE = {"type": "string_check", "reference": "please", "operation": "ilike"}
UNPARSEABLE = {"type": "math", "reference": "\\frac{"}
MATH = {"type": "math", "reference": "54"}


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    pool = Children(size=1)
    yield pool
    pool.close()


def multi(children: Children, formula: str, **parts: Any) -> Grader:
    spec = {"type": "multi", "graders": parts or {"right": RIGHT, "polite": POLITE}, "calculate_output": formula}
    return parse_grader(spec, children=children)


def value(verdict: Verdict) -> float:
    assert isinstance(verdict, Graded), verdict
    return verdict.value


def test_similarity_is_twice_the_matching_characters_over_all(children: Children) -> None:
    spec = {"type": "text_similarity", "reference": "abcd", "evaluation_metric": "fuzzy_match"}
    grader = parse_grader(spec, children=children)
    assert value(grader.grade("abcd", SECONDS)) == 1.0
    assert value(grader.grade("bcde", SECONDS)) == 0.75
    assert value(grader.grade("xyz", SECONDS)) == 0.0
    assert value(grader.grade("", SECONDS)) == 0.0


def test_similarity_of_long_text_does_not_collapse(children: Children) -> None:
    """With difflib's default, characters that are frequent in a long text are ignored, and the ratio falls to 0."""
    text = "the quick brown fox jumps over the lazy dog " * 10
    spec = {"type": "text_similarity", "reference": text, "evaluation_metric": "fuzzy_match"}
    assert value(parse_grader(spec, children=children).grade(text[1:], SECONDS)) > 0.99


def test_similarity_that_takes_too_long_is_a_failure(children: Children) -> None:
    spec = {"type": "text_similarity", "reference": "ab" * 5_000, "evaluation_metric": "fuzzy_match"}
    grader = parse_grader(spec, children=children)
    assert value(grader.grade("ab", SECONDS)) > 0
    began = time.monotonic()
    assert isinstance(grader.grade("ba" * 10_000, 0.3), Failed)
    assert time.monotonic() - began < 5.0


@pytest.mark.parametrize(
    ("formula", "answer", "expected"),
    [
        ("0.8 * right + 0.2 * polite", "54, please", 1.0),
        ("0.8 * right + 0.2 * polite", "54", 0.8),
        ("0.8 * right + 0.2 * polite", "please", 0.2),
        ("right / (1 + polite)", "please, 54", 0.5),
        ("max(right, polite, 0.25)", "no", 0.25),
        ("min(right, polite)", "54", 0.0),
        ("1 - right - -polite * 0", "54", 0.0),
    ],
)
def test_multi_is_its_formula(formula: str, answer: str, expected: float, children: Children) -> None:
    assert value(multi(children, formula).grade(answer, SECONDS)) == pytest.approx(expected, abs=1e-12)


def test_a_failed_part_fails_the_whole_whatever_its_weight(children: Children) -> None:
    verdict = multi(children, "right + 0 * broken", right=RIGHT, broken=UNPARSEABLE).grade("54", SECONDS)
    assert isinstance(verdict, Failed)
    assert verdict.reason.startswith("broken: ")


def test_a_part_without_a_grade_leaves_the_whole_without_one_unless_a_part_failed(children: Children) -> None:
    answer = "54" * MAX_ANSWER
    assert isinstance(multi(children, "right + 0 * sums", right=RIGHT, sums=MATH).grade(answer, SECONDS), NoGrade)
    spec = multi(children, "sums / right", sums=MATH, inner={**POLITE}, right=RIGHT)
    assert isinstance(spec.grade(answer, SECONDS), NoGrade)
    divides = {"type": "multi", "graders": {"right": RIGHT}, "calculate_output": "1 / right"}
    assert isinstance(multi(children, "sums * d", sums=MATH, d=divides).grade(answer, SECONDS), Failed)


def test_a_value_out_of_range_or_a_division_by_zero_is_a_failure_and_not_a_clipped_grade(children: Children) -> None:
    assert isinstance(multi(children, "right + polite").grade("please 54", SECONDS), Failed)
    assert isinstance(multi(children, "right - 1").grade("53", SECONDS), Failed)
    assert isinstance(multi(children, "right / polite").grade("54", SECONDS), Failed)


def test_parts_share_one_deadline(children: Children) -> None:
    endless = "$9^{9^{9^{9}}}$"
    assert value(parse_grader(MATH, children=children).grade("54", SECONDS)) == 1.0
    began = time.monotonic()
    assert isinstance(multi(children, "a * b * c", a=MATH, b=MATH, c=MATH).grade(endless, 0.6), Failed)
    assert time.monotonic() - began < 5.0
