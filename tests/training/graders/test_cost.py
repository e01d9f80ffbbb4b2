"""A reference that cannot be worked out is refused when it is named."""

import time

import pytest

from training.graders.cost import too_costly
from training.graders.parse import MAX_SPEC, parse_grader
from training.graders.spec import GraderSpecError

COSTLY = [
    "9^{9^{9^{9}}}",
    "9^9^9",
    "7**9**9**9",
    "$2^{(10^{9})}$",
    "2^{99999999}",
    "100000!",
    "\\frac{(99999)!}{2}",
    "(20!!)!",
]
FINE = [
    "2^{10}",
    "x^{2^{3}}",
    "2^{3^{4}}",
    "e^{x^2}",
    "10^{100}",
    "1^{999999999}",
    "52!",
    "(n+1)!",
    "3! + 2",
    "1.5^2",
    "!",
]


@pytest.mark.parametrize("reference", COSTLY)
def test_a_tower_of_powers_is_refused_by_name_and_at_once(reference: str) -> None:
    began = time.process_time()
    with pytest.raises(GraderSpecError, match="reference holds a") as caught:
        parse_grader({"type": "math", "reference": reference})
    assert caught.value.param == "grader.reference"
    assert time.process_time() - began < 1


@pytest.mark.parametrize("reference", FINE)
def test_numbers_that_people_write_are_not(reference: str) -> None:
    assert too_costly(reference) is None


def test_a_spec_has_a_size() -> None:
    part = {"type": "string_check", "operation": "eq", "reference": "x" * 9_000}
    parts = dict.fromkeys("abcdefgh", part)
    with pytest.raises(GraderSpecError, match=str(MAX_SPEC)):
        parse_grader({"type": "multi", "graders": parts, "calculate_output": "a"})
