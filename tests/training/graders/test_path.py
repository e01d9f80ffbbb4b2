"""path: every walk along the edges from start to goal is right, however it is written; anything else is wrong."""

from typing import Any

import pytest

from training.graders.parse import parse_grader
from training.graders.verdict import Graded

EDGES = [["A", "B"], ["B", "C"], ["A", "D"], ["D", "C"], ["D", "A"], ["C", "end_1"]]


def value(answer: str, **spec: Any) -> float:
    verdict = parse_grader({"type": "path", "edges": EDGES, "start": "A", "goal": "C", **spec}).grade(answer, 1.0)
    assert isinstance(verdict, Graded)
    return verdict.value


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("A B C", 1.0),
        ("A D C", 1.0),
        ("A D A B C", 1.0),
        ("A->B -> C", 1.0),
        ("A, B,C", 1.0),
        ("A \N{RIGHTWARDS ARROW} B \N{RIGHTWARDS ARROW} C\n", 1.0),
        ("A C", 0.0),
        ("C B A", 0.0),
        ("B C", 0.0),
        ("A B", 0.0),
        ("A B C end_1", 0.0),
        ("a b c", 0.0),
        ("A", 0.0),
        ("", 0.0),
        ("A B C.", 0.0),
        ("ABC", 0.0),
        ("A;B;C", 0.0),
        ("the path is A B C", 0.0),
    ],
)
def test_every_path_is_right_and_nothing_else(answer: str, expected: float) -> None:
    assert value(answer) == expected


def test_names_and_the_marker_are_the_specs() -> None:
    assert value("A D A B Answer: A B C end_1", goal="end_1", extract="after_marker", marker="Answer:") == 1.0
    assert value("A B C end_1", goal="end_1", extract="after_marker", marker="Answer:") == 0.0


def test_a_hostile_answer_of_a_megabyte_is_wrong_at_once() -> None:
    for piece in ("A ", ">", " ", "->", "A"):
        assert value(piece * (1_000_000 // len(piece))) == 0.0


def test_a_grader_has_an_identity_and_says_where_a_walk_leaves_the_edges() -> None:
    grader = parse_grader({"type": "path", "edges": EDGES, "start": "A", "goal": "C"})
    assert (grader.kind, grader.name, grader.version) == ("path", "path", "1")
    assert grader.grade("A C", 1.0) == Graded(0.0, "'A C' goes from A to C, where there is no edge")
