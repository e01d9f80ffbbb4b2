r"""How mathematics is written, brought to what a LaTeX reader reads, and told from prose.

`\$1{,}234`, `-5` with a typographic minus, `2e-9` and `1 1/2` mean numbers that a LaTeX reader misreads; `(1, 2)` or
`\sqrt{2}` without delimiters are no formulas to it. Every pattern is linear in the text. Leaves out reading (see
`child_math`) and what is right (`math_answer`).
"""

import re
from fractions import Fraction

from training.graders.extract import final_answer, in_box, without_stop
from training.graders.number import NARROW_SPACES, spelled

MAX_FORMULA = 300  # characters of an answer that is read as one formula
MOST_ZEROS = 30  # written for an exponent

_MINUS = re.compile(
    r"\N{MINUS SIGN}|(?:(?<=^)|(?<=[=(\[{$,:])|(?<=[A-Za-z=(\[{$,:] ))[\N{EN DASH}\N{EM DASH}](?=[\d.])", re.MULTILINE
)
_MONEY = re.compile(r"(?:\\\$|[\N{POUND SIGN}\N{EURO SIGN}\N{YEN SIGN}])\s?(?=[+-]?[\d.])|(?<=\d)\s?\N{EURO SIGN}")
_GROUPS = re.compile(rf"(?<=\d)(?:\{{,\}}|\\[,!]|[{NARROW_SPACES}])(?=\d{{3}}(?!\d))")
_PLUS = re.compile(r"(?:^|(?<=[=(\[{$,:]))(\s?)\+(?=[\d.])", re.MULTILINE)
_ZEROS = re.compile(r"(?<![\w.,])0+(?=\d)", re.ASCII)
_EXPONENT = re.compile(r"(?<![\w.])(\d{1,30}(?:\.\d{1,30})?)[eE]([+-]?\d{1,2})(?![\w.])", re.ASCII)
_MIXED = re.compile(r"(?<![\w./])(\d{1,9}) (\d{1,9})/(\d{1,9})(?![\w/])", re.ASCII)
_DOLLAR = re.compile(r"(?<!\\)\$")

FUNCTION = re.compile(r"(?:arc)?(?:sin|cos|tan)h?|cot|sec|csc|exp|log|ln|pi|max|min|gcd|lcm|mod|det", re.IGNORECASE)
READ_AS_IT_STANDS = "sqrt"  # math-verify knows sqrt(2) and not \\sqrt(2)
_PLAIN_NUMBER = re.compile(r"[+-]?(?:\d[\d,]*)?\.?\d*\s*%?(?:\s[A-Za-z])?\.?")  # one letter after a space is a unit
_ONE_FORMULA = re.compile(r"[\w\s\\{}()\[\]|.,:;!^*/+=<>'-]+", re.ASCII)
_COMMAND = re.compile(r"\\[A-Za-z]+|\\[{}|,;!]")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|operatorname)\{([^{}]{0,60})\}")
_WORD = re.compile(r"[A-Za-z]{2,}")
_TWO_NUMBERS = re.compile(r"(?<![_^\d])\d+\s+\d")
_POWER = re.compile(r"(?:\*\*|\^)(?:\s?(\d+))?")  # Python's, and x^10, which LaTeX reads as x^1 times 0
_SPACE = re.compile(r"(?<!\w) | (?!\w)")  # that does not keep two numbers or two names apart
_SIZES = re.compile(r"\\(?:left|right|displaystyle|,|;|!|quad)(?![A-Za-z])")


def as_latex(text: str) -> str:
    """Write numbers the way a LaTeX reader reads them; everything else stays."""
    text = _MINUS.sub("-", text)
    text = _GROUPS.sub("", _MONEY.sub("", text))
    if len(_DOLLAR.findall(text)) == 1:  # money, not a delimiter
        text = _DOLLAR.sub("", text)
    text = _ZEROS.sub("", _PLUS.sub(r"\1", text))
    text = _EXPONENT.sub(_written_out, text)
    return _MIXED.sub(_improper, text)


def _written_out(found: re.Match[str]) -> str:
    """Write 2e-9 as 0.000000002."""
    exponent = int(found[2])
    return spelled(Fraction(found[1]) * Fraction(10) ** exponent) if abs(exponent) <= MOST_ZEROS else found[0]


def _improper(found: re.Match[str]) -> str:
    """Write 1 1/2 as 3/2; two numbers side by side stay."""
    whole, above, below = int(found[1]), int(found[2]), int(found[3])
    return f"{whole * below + above}/{below}" if above < below else found[0]


def formula_in(text: str) -> str | None:
    """Return the formula that is a text's whole final answer and has no delimiters, None where there is no such one.

    A plain number, with or without a unit, is none: numbers are found in any text.
    """
    if _DOLLAR.search(text) or "\\(" in text or "\\[" in text or in_box(text) is not None:
        return None
    formula = without_stop(final_answer(text)).lstrip("= ").strip()
    if len(formula) > MAX_FORMULA or not formula or _PLAIN_NUMBER.fullmatch(formula):
        return None
    if _ONE_FORMULA.fullmatch(formula) is None or formula.count("=") > 1 or _TWO_NUMBERS.search(formula):
        return None
    words = _WORD.findall(_COMMAND.sub(" ", _TEXT.sub(" ", formula)))
    if not all(word == READ_AS_IT_STANDS or FUNCTION.fullmatch(word) for word in words):
        return None
    for word in set(words) - {READ_AS_IT_STANDS}:
        formula = re.sub(rf"(?<![\\A-Za-z]){word}(?![A-Za-z])", rf"\\{word.lower()}", formula)
    return _POWER.sub(lambda found: f"^{{{found[1]}}}" if found[1] else "^", formula)


def same(reference: str, answer: str) -> bool:
    """Return whether a text's final answer is the reference letter for letter, but for space and what surrounds it."""
    return _letters(reference) in {_letters(answer), _letters(_last_formula(answer))}


def _letters(text: str) -> str:
    return _SPACE.sub("", " ".join(_SIZES.sub(" ", _TEXT.sub(r"\1", without_stop(final_answer(text)))).split()))


def _last_formula(text: str) -> str:
    """Return what stands between the last two dollars; the text where there are none."""
    parts = _DOLLAR.split(text)
    return parts[-2] if len(parts) >= 3 and len(parts) % 2 else text
