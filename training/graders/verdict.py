"""What a grader says of one answer: graded, no grade, or failed.

Three states, because each teaches something else: a zero is a wrong answer and is learned from, no grade is an answer
this grader has no opinion on, and a failure is the grader's own (an unparseable reference, a deadline) and must never
look like a zero. Leaves out the graders themselves.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Graded:
    """The answer was judged."""

    value: float  # in [0, 1]; 1 is right
    detail: str = ""  # what was compared, for people; may be empty

    def __post_init__(self) -> None:
        assert 0.0 <= self.value <= 1.0, f"a grade lies in [0, 1], got {self.value}"


@dataclass(frozen=True, slots=True)
class NoGrade:
    """The grader has no opinion on this answer; it is not evidence either way."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The grader could not do its work; the answer is neither right nor wrong."""

    reason: str
    overran: bool = False  # whether it was ended for taking too long, or too much memory


Verdict = Graded | NoGrade | Failed
