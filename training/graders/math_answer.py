"""math: whether an answer is mathematically equal to a reference, by math-verify in a child process.

The reference goes first, because the comparison is not symmetric and the asymmetry guards against reward hacking. A
reference that cannot be parsed is the task's error (`Failed`); an answer that cannot be is wrong (0). An answer that is
the reference letter for letter is right, whatever a parser makes of either.
"""

from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from training.graders.children import Children, GradingEndedError, GradingOverranError
from training.graders.cost import too_costly
from training.graders.extract import Extraction, read_extraction
from training.graders.notation import as_latex, formula_in, same
from training.graders.spec import MAX_NAME, MAX_REFERENCE, SpecFields
from training.graders.verdict import Failed, Graded, NoGrade, Verdict

KIND = "math"
Request = dict[str, Any]  # what a child is asked; `child_math` says which fields
MAX_ANSWER = 20_000  # characters judged; a longer answer gets no grade


def math_version() -> str:
    """Return our version and math-verify's: either can change a verdict."""
    return f"3+math-verify-{version('math-verify')}"


@dataclass(frozen=True, slots=True)
class MathAnswer:
    """Grades 1 where the answer equals the reference, else 0."""

    name: str
    reference: str  # the gold: a number, LaTeX with or without $, or text that holds it
    precision: int  # decimal places that floats are rounded to; numbers too small for that, see `child_math.near`
    extraction: Extraction
    children: Children = field(repr=False, compare=False)
    kind: str = KIND
    version: str = field(default_factory=math_version)

    def grade(self, answer: str, deadline_s: float) -> Verdict:
        """Judge the answer in a child that is killed when it overruns."""
        judged = self.extraction.find(answer)
        if judged is None:
            return Graded(0.0, self.extraction.missing())
        if same(self.reference, judged):
            return Graded(1.0, f"{self.reference[:200]!r}, letter for letter")
        request: Request = {
            "judge": "math",
            "reference": as_latex(formula_in(self.reference) or self.reference),
            "answer": as_latex(judged),
            "formula": as_latex(formula_in(judged) or ""),
            "precision": self.precision,
        }
        return ask_child(self.children, request, deadline_s)


def ask_child(children: Children, request: Request, deadline_s: float) -> Verdict:
    """Have a child judge `request["answer"]`, and turn what can go wrong into a verdict."""
    if len(str(request["answer"])) > MAX_ANSWER:
        return NoGrade(f"the answer is longer than the {MAX_ANSWER} characters this grader judges")
    try:
        reply = children.ask(request, deadline_s)
    except GradingOverranError:
        return Failed(f"the grader did not finish within {deadline_s:g} s", overran=True)
    except GradingEndedError:
        return Failed("the grader's process ended before it had a verdict", overran=True)
    if "failed" in reply:
        return Failed(str(reply["failed"]))
    return Graded(float(reply["value"]), str(reply["detail"]))


def read_math(fields: SpecFields, children: Children) -> MathAnswer:
    """Read the spec's fields."""
    name = fields.text("name", MAX_NAME, KIND)
    reference = fields.text("reference", MAX_REFERENCE).strip()
    if why := too_costly(reference):
        raise fields.error("reference", why)
    precision = fields.integer("precision", 1, 15, 6)
    extraction = read_extraction(fields)
    fields.close()
    return MathAnswer(name, reference, precision, extraction, children)
