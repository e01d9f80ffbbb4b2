"""What part of an answer is judged: all of it, its last number, or what follows a marker.

Named extractions instead of a caller's regular expression, because a pattern from outside can take exponential time.
Every one here is linear in the answer.
"""

import re
from dataclasses import dataclass

from training.graders.spec import SpecFields

KINDS = ("whole", "last_number", "after_marker")
MAX_MARKER = 100  # characters

MINUS = "-\N{MINUS SIGN}"
# A sign counts unless it follows a number, a name or a bracket, where it subtracts.
NUMBER = re.compile(rf"(?:(?<![\w)\]])[+{MINUS}])?\d[\d,]*(?:\.\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Extraction:
    """How the judged part is found."""

    kind: str = "whole"  # one of KINDS
    marker: str = ""  # for after_marker: the text before the judged part, as in "Answer:"

    def find(self, answer: str) -> str | None:
        """Return the judged part without surrounding space, or None when the answer has none."""
        if self.kind == "last_number":
            numbers = NUMBER.findall(answer)
            return plain_number(numbers[-1]) if numbers else None
        if self.kind == "after_marker":
            _, found, rest = answer.rpartition(self.marker)
            return rest.strip().partition("\n")[0].rstrip() if found else None
        return answer.strip()

    def missing(self) -> str:
        """Return why `find` found nothing, for people."""
        return "the answer has no number" if self.kind == "last_number" else f"the answer lacks {self.marker!r}"


def read_extraction(fields: SpecFields) -> Extraction:
    """Read `extract` and, where it is after_marker, `marker`."""
    kind = fields.choice("extract", KINDS, "whole")
    return Extraction(kind, fields.text("marker", MAX_MARKER) if kind == "after_marker" else "")


def plain_number(written: str) -> str:
    """Return one spelling of a number: '+1,234.50' and '01234.5' both give '1234.5'."""
    sign = "-" if written[0] in MINUS else ""
    whole, _, decimals = written.lstrip("+" + MINUS).replace(",", "").partition(".")
    whole, decimals = whole.lstrip("0") or "0", decimals.rstrip("0")
    number = f"{whole}.{decimals}" if decimals else whole
    return number if number == "0" else sign + number
