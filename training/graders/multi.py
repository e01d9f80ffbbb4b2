"""multi: several graders of one answer, combined by a formula.

A part that failed makes the whole fail, and a part without a grade leaves the whole without one: a formula over fewer
parts than it names would be another formula.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from training.graders.deadline import Deadline
from training.graders.formula import Formula
from training.graders.grader import Grader
from training.graders.verdict import Failed, Graded, NoGrade, Verdict

KIND = "multi"
ROUNDING = 1e-9  # how far outside [0, 1] a value may be by rounding alone


@dataclass(frozen=True, slots=True)
class Multi:
    """Grades what its formula makes of its parts' values; a value outside [0, 1] is a failure."""

    name: str
    parts: Mapping[str, Grader]  # by the names the formula uses
    formula: Formula
    kind: str = KIND

    @property
    def version(self) -> str:
        """Our version and those of the parts."""
        parts = ", ".join(f"{name}={part.kind}:{part.version}" for name, part in sorted(self.parts.items()))
        return f"1({parts})"

    def grade(self, answer: str, deadline_s: float) -> Verdict:
        """Judge the answer by every part, one after the other, within one deadline."""
        deadline = Deadline(deadline_s)
        values: dict[str, float] = {}
        ungraded: NoGrade | None = None
        for name, part in self.parts.items():
            if deadline.remaining() == 0:
                return Failed(f"{name}: no time was left of {deadline_s:g} s", overran=True)
            match part.grade(answer, deadline.remaining()):
                case Failed(reason, overran):
                    return Failed(f"{name}: {reason}", overran)
                case NoGrade(reason):
                    ungraded = NoGrade(f"{name}: {reason}")
                case Graded(value, _):
                    values[name] = value
        return ungraded or self.combined(values)

    def combined(self, values: Mapping[str, float]) -> Verdict:
        """Return the verdict of the formula for the parts' values."""
        try:
            value = self.formula.value(values)
        except ZeroDivisionError:
            return Failed("calculate_output divides by zero for this answer")
        if not math.isfinite(value) or not -ROUNDING <= value <= 1 + ROUNDING:
            return Failed(f"calculate_output gave {value:g}; write it so that it stays within 0 and 1")
        detail = ", ".join(f"{name} {part:g}" for name, part in values.items())
        return Graded(min(1.0, max(0.0, value)), detail)
