"""countdown: any expression worth the target, of the given numbers, is right; anything else is wrong, and never run."""

from fractions import Fraction
from typing import Any

import pytest

from training.graders.expression import MAX_DEPTH, MAX_LENGTH, ExpressionError, read_expression
from training.graders.parse import parse_grader
from training.graders.verdict import Graded


def value(answer: str, **spec: Any) -> float:
    chosen = {"type": "countdown", "numbers": [47, 6, 8, 9], "target": 54, **spec}
    verdict = parse_grader(chosen).grade(answer, 1.0)
    assert isinstance(verdict, Graded)
    return verdict.value


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("47 + 6 - 8 + 9", 1.0),
        (" 9+47 -(8-6)\n", 1.0),
        ("47 + 6 \N{MINUS SIGN} 8 + 9", 1.0),
        ("47 + 6 - 8", 0.0),
        ("47 + 6 - 8 + 9 + 9", 0.0),
        ("47 + 6 + 8 - 9", 0.0),
        ("54", 0.0),
        ("47 + 6 - 8 + 9 = 54", 0.0),
        ("47 + 6 - 8 + 09", 1.0),
        ("", 0.0),
        ("(47 + 6 - 8 + 9", 0.0),
        ("__import__('os').abort()", 0.0),
        ("47 + 6 - 8 + 9.0", 0.0),
        ("47 + 6 - 8 + \N{SUPERSCRIPT NINE}", 0.0),
        ("47 + 6 - 8 + \N{ARABIC-INDIC DIGIT NINE}", 0.0),
    ],
)
def test_every_solution_is_right_and_nothing_else(answer: str, expected: float) -> None:
    assert value(answer) == expected


def test_numbers_may_be_left_over_only_where_the_spec_says_so() -> None:
    assert value("47 + 6 + 1", numbers=[47, 6, 1, 3], use="some") == 1.0
    assert value("47 + 6 + 1", numbers=[47, 6, 1, 3]) == 0.0
    assert value("27 + 27", numbers=[27, 3], use="some") == 0.0
    assert value("27 + 27", numbers=[27, 27, 3], use="some") == 1.0


def test_what_follows_the_marker_is_judged() -> None:
    spec = {"extract": "after_marker", "marker": "Answer:"}
    assert value("53 45 54 Answer: 47 + 6 - 8 + 9", **spec) == 1.0
    assert value("47 + 6 - 8 + 9", **spec) == 0.0


@pytest.mark.parametrize(
    ("text", "total"),
    [
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("7 - 2 - 1", 4),
        ("8 / 4 / 2", 1),
        ("1 / 3 + 1 / 6", Fraction(1, 2)),
        ("2 \N{MULTIPLICATION SIGN} 9 \N{DIVISION SIGN} 3", 6),
        ("((7))", 7),
    ],
)
def test_an_expression_is_worth_what_arithmetic_says(text: str, total: Fraction) -> None:
    assert read_expression(text).total == total


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 / (2 - 2)", "divides by zero"),
        ("1 +", "ends too early"),
        ("+ 1", "where a number should be"),
        ("1 2", "where an operation should be"),
        ("1)", "where an operation should be"),
        ("(1", "ends too early"),
        ("(1 2)", "closing parenthesis"),
        ("2 ** 3", "where a number should be"),
        ("1234567", "not arithmetic"),
        ("2e3", "not arithmetic"),
        ("(" * (MAX_DEPTH + 1) + "1" + ")" * (MAX_DEPTH + 1), "nested deeper"),
        ("1+" * MAX_LENGTH + "1", "longer than"),
    ],
)
def test_what_is_no_expression_says_why(text: str, says: str) -> None:
    with pytest.raises(ExpressionError, match=says.replace("(", r"\(")):
        read_expression(text)


def test_the_deepest_and_the_longest_expressions_are_read() -> None:
    assert read_expression("(" * MAX_DEPTH + "1" + ")" * MAX_DEPTH).total == 1
    assert read_expression(("9*" * MAX_LENGTH)[: MAX_LENGTH - 1]).total == 9 ** (MAX_LENGTH // 2)


def test_a_grader_has_an_identity_and_says_what_it_compared() -> None:
    grader = parse_grader({"type": "countdown", "numbers": [1, 2], "target": 3})
    assert (grader.kind, grader.name, grader.version) == ("countdown", "countdown", "1")
    assert grader.grade("1 + 1", 1.0) == Graded(0.0, "'1 + 1' does not use all of the numbers (1, 2)")
