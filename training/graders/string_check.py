"""string_check: compare the answer, or a named part of it, with a reference text.

The operations are those of OpenAI's grader of this name: eq, ne, like (contains), ilike (contains, any case).
Space around either text does not count.
"""

from dataclasses import dataclass

from training.graders.extract import Extraction, read_extraction
from training.graders.number import is_number, plain_number
from training.graders.spec import MAX_NAME, MAX_REFERENCE, SpecFields
from training.graders.verdict import Graded, Verdict

KIND = "string_check"
OPERATIONS = ("eq", "ne", "like", "ilike")


@dataclass(frozen=True, slots=True)
class StringCheck:
    """Grades 1 where the operation holds between the judged part and the reference, else 0."""

    name: str
    reference: str  # without surrounding space
    operation: str  # one of OPERATIONS
    extraction: Extraction
    kind: str = KIND
    version: str = "2"

    def grade(self, answer: str, deadline_s: float) -> Verdict:
        """Judge the answer; linear in its length, so the deadline is never near."""
        assert deadline_s > 0, "a deadline lies ahead"
        readings = self.extraction.readings(answer)
        if not readings:
            return Graded(0.0, self.extraction.missing())
        held = [compare(self.operation, reading, self.reference) for reading in readings]
        holds = all(held) if self.operation == "ne" else any(held)
        return Graded(float(holds), f"{readings[0][:200]!r} {self.operation} {self.reference[:200]!r}")


def compare(operation: str, judged: str, reference: str) -> bool:
    """Return whether the operation holds."""
    match operation:
        case "eq":
            return judged == reference
        case "ne":
            return judged != reference
        case "like":
            return reference in judged
        case _:
            return reference.casefold() in judged.casefold()


def read_string_check(fields: SpecFields) -> StringCheck:
    """Read the spec's fields."""
    name = fields.text("name", MAX_NAME, KIND)
    reference = fields.text("reference", MAX_REFERENCE).strip()
    operation = fields.choice("operation", OPERATIONS)
    extraction = read_extraction(fields)
    fields.close()
    if extraction.kind == "last_number":
        if not is_number(reference):
            raise fields.error("reference", "must be a number where extract is last_number")
        reference = plain_number(reference)
    return StringCheck(name, reference, operation, extraction)
