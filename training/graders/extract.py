"""What part of an answer is judged: all of it, its last number, its final answer, or what follows a marker.

Named extractions instead of a caller's regular expression, because a pattern from outside can take exponential time.
Every one here is linear in the answer. Leaves out how numbers are written (`number`).
"""

import re
from dataclasses import dataclass

from training.graders.number import last_number
from training.graders.spec import SpecFields

KINDS = ("whole", "last_number", "after_marker", "answer")
MAX_MARKER = 100  # characters

OPEN, CLOSE = "<answer>", "</answer>"
BOXED = "\\boxed{"
# "The answer is 12", "Answer: 12", "**Final answer:** 12"; not "my answer may be 12"
ANNOUNCED = re.compile(r"\banswer\*{0,2}\s{0,4}(?:is\b\s{0,4}:?|[:=])\*{0,2}[ \t]{0,4}", re.IGNORECASE)
PAIRS = (("**", "**"), ("$", "$"), ("\\(", "\\)"), ("`", "`"), ('"', '"'))  # written around an answer, not of it


@dataclass(frozen=True, slots=True)
class Extraction:
    """How the judged part is found."""

    kind: str = "whole"  # one of KINDS
    marker: str = ""  # for after_marker: the text before the judged part, as in "Answer:"

    def find(self, answer: str) -> str | None:
        """Return the judged part without surrounding space, or None when the answer has none."""
        if self.kind == "last_number":
            return last_number(answer)
        if self.kind == "after_marker":
            _, found, rest = answer.rpartition(self.marker)
            return rest.strip().partition("\n")[0].rstrip() if found else None
        return without_stop(final_answer(answer)) if self.kind == "answer" else answer.strip()

    def readings(self, answer: str) -> list[str]:
        """Return what `find` finds; of a final answer that ends in a full stop also the one with it, if it belongs."""
        found = self.find(answer)
        if found is None:
            return []
        return list(dict.fromkeys((found, final_answer(answer)))) if self.kind == "answer" else [found]

    def missing(self) -> str:
        """Return why `find` found nothing, for people."""
        return "the answer has no number" if self.kind == "last_number" else f"the answer lacks {self.marker!r}"


def read_extraction(fields: SpecFields, default: str = "whole") -> Extraction:
    """Read `extract` and, where it is after_marker, `marker`."""
    kind = fields.choice("extract", KINDS, default)
    return Extraction(kind, fields.text("marker", MAX_MARKER) if kind == "after_marker" else "")


def final_answer(text: str) -> str:
    r"""Return what a text gives as its answer, without what is written around it; a full stop stays.

    The first of these that is there, each the last of its kind: between <answer> and </answer>; in \boxed{};
    what is announced ("The answer is 12.", "Answer: 12"), the rest of that line, or all that follows where the line
    ends there; else the whole text.
    """
    tagged = between_tags(text)
    if tagged is not None:
        return bare(tagged)
    boxed = in_box(text)
    if boxed is not None:
        return bare(boxed)
    announced = [match.end() for match in ANNOUNCED.finditer(text)]
    if not announced:
        return bare(text)
    rest = text[announced[-1] :]
    line = rest.partition("\n")[0].strip()
    return bare(line or rest)


def between_tags(text: str) -> str | None:
    """Return what stands in the last <answer>...</answer>, None where there is none."""
    before, found, _ = text.rpartition(CLOSE)
    _, opened, inside = before.rpartition(OPEN)
    return inside if found and opened else None


def in_box(text: str) -> str | None:
    r"""Return what stands in the last \boxed{...}, None where there is none or it is not closed."""
    _, found, rest = text.rpartition(BOXED)
    if not found:
        return None
    depth = 1
    for at, sign in enumerate(rest):
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            return rest[:at]
    return None


def without_stop(text: str) -> str:
    """Leave out the full stop that ends a sentence, and what is written around the rest."""
    return text if text.endswith("..") else bare(text.removesuffix("."))


def bare(text: str) -> str:
    """Strip space and what is written around an answer, such as quotes; where it holds such a sign too, they stay."""
    text = text.strip()
    for opening, closing in PAIRS:
        inside = text[len(opening) : -len(closing)]
        if text == f"{opening}{inside}{closing}" and inside.strip() and closing not in inside:
            text = inside.strip()
    return text
