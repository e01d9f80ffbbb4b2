"""countdown: whether an expression reaches the target with the given numbers. Every right expression is accepted.

What is judged must be an expression and nothing more: `6 + 8`, not `6 + 8 = 14`. Anything else is a wrong answer.
"""

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from training.graders.expression import ExpressionError, read_expression
from training.graders.extract import Extraction, read_extraction
from training.graders.spec import MAX_NAME, SpecFields
from training.graders.verdict import Graded, Verdict

KIND = "countdown"
USES = ("all", "some")
MAX_NUMBERS = 20  # given numbers
MAX_NUMBER = 999_999  # what a number or the target may be


@dataclass(frozen=True, slots=True)
class Countdown:
    """Grades 1 where the expression comes to the target from the given numbers, else 0."""

    name: str
    numbers: tuple[int, ...]  # each 0..MAX_NUMBER; one given twice may be used twice
    target: int  # -MAX_NUMBER..MAX_NUMBER
    use: str  # one of USES: every number exactly once, or each at most once
    extraction: Extraction
    kind: str = KIND
    version: str = "1"

    def grade(self, answer: str, deadline_s: float) -> Verdict:
        """Judge the answer; what is judged is short, so the deadline is never near."""
        assert deadline_s > 0, "a deadline lies ahead"
        judged = self.extraction.find(answer)
        if judged is None:
            return Graded(0.0, self.extraction.missing())
        try:
            value = read_expression(judged)
        except ExpressionError as error:
            return Graded(0.0, f"{judged[:200]!r} {error}")
        if not self.allows(value.numbers):
            return Graded(0.0, f"{judged[:200]!r} does not use {self.use} of the numbers {self.numbers}")
        return Graded(float(value.total == Fraction(self.target)), f"{judged[:200]!r} against {self.target}")

    def allows(self, used: tuple[int, ...]) -> bool:
        """Return whether these numbers may be used together."""
        given, taken = Counter(self.numbers), Counter(used)
        return taken == given if self.use == "all" else taken <= given


def read_countdown(fields: SpecFields) -> Countdown:
    """Read the spec's fields."""
    name = fields.text("name", MAX_NAME, KIND)
    numbers = fields.take("numbers")
    if not isinstance(numbers, list) or not 1 <= len(numbers) <= MAX_NUMBERS:
        raise fields.error("numbers", f"must be a list of 1 to {MAX_NUMBERS} whole numbers")
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= MAX_NUMBER for n in numbers):
        raise fields.error("numbers", f"must hold whole numbers from 0 to {MAX_NUMBER}")
    target = fields.integer("target", -MAX_NUMBER, MAX_NUMBER)
    use = fields.choice("use", USES, "all")
    extraction = read_extraction(fields)
    fields.close()
    return Countdown(name, tuple(numbers), target, use, extraction)
