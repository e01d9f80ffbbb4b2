"""Why the two sides differ where they do, or differ from a reader: each kind of difference that is known.

A difference that is not listed here fails `lepo bench graders` and its test. The reasons stand in
docs/decisions/graders.md in more words.
"""

from collections.abc import Mapping
from types import MappingProxyType

from benchmarks.graders.comparison import Case

LAST_NUMBER = "last_number takes the last number, whatever stands around it"
AROUND = "the whole text is compared: what stands around the answer costs a part, or all"
SPELLING = "compared as text: another spelling of a number is another text"
FIRST_NUMBER = "gsm_symbolic takes the first number, up to a comma and without its sign"
COMMAS = "commas are dropped, wherever they stand: 4,3 is 43"
CONSTANT = "math compares with the one reference; that a constant may be left out is what the dataset's scorer knows"
NO_LATEX = "LaTeX is not read"
ROUNDING = "spell_backward adds up shares per letter, which exceed 1 by rounding, and looks at no letter beyond"

OURS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("last_number", "halved"): LAST_NUMBER,
        ("last_number", "in a formula"): LAST_NUMBER,
        ("math", "without its constant"): CONSTANT,
    }
)
THEIRS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("brackets", "equation", "money", "unit"), AROUND),
        **dict.fromkeys(
            ("decimals", "plus", "zeros before", "grouped", "typographic minus", "printed signs"), SPELLING
        ),
        **dict.fromkeys(("dollars", "grouped in LaTeX"), NO_LATEX),
    }
)


def why(case: Case, *, ours: bool) -> str | None:
    """Return why a side differs from a reader, None where nobody knows."""
    if ours:
        return OURS.get((case.grader, case.variant))
    if case.dataset == "gsm_symbolic" and case.variant in {"halved", "negated", "in a formula", "separated, no space"}:
        return FIRST_NUMBER
    if case.dataset == "spell_backward" and case.variant == "one letter more":
        return ROUNDING
    if case.variant == "separated, no space":
        return COMMAS
    return THEIRS.get(case.variant) if case.right else None
