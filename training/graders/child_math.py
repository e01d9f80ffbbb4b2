"""What the child process for mathematics judges: equality by math-verify, and fuzzy matching.

Run by `child`, so it imports nothing of ours. Leaves out how an answer is brought to LaTeX (see `notation`).
"""

import re
from collections.abc import Callable, Mapping
from difflib import SequenceMatcher
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from sympy import Add, Basic, Eq, Expr, Mul, Number, preorder_traversal

DELIMITERS = ("$", "\\(", "\\[", "\\boxed")
DELIMITED = re.compile(r"\$\$.+?\$\$|\$[^\n$]+\$|\\\(.+?\\\)|\\\[.+?\\\]|\\boxed\{[^{}]*\}", re.DOTALL)
COMPARISON_ERRORS = (ArithmeticError, AttributeError, LookupError, NotImplementedError, RecursionError, TypeError)
FEWEST_DIGITS = 3  # of a number that rounding to decimal places must leave to be all of the comparison
NEAR = 0.005  # relative; what smaller numbers may be apart


def judge_math(request: dict[str, Any]) -> dict[str, Any]:
    """Compare an answer with the gold by math-verify, the gold first: the comparison is not symmetric.

    Request: `reference`, `answer`, `formula` (the answer's own, where all of it is one without delimiters, else ""),
    `precision`.

    Reply: {"failed": why} where the gold cannot be parsed or the two cannot be compared, else {"value", "detail"}.
    """
    gold = formula(request["reference"])
    if not gold:
        return {"failed": "the reference cannot be parsed as mathematics; correct the task"}
    answer = formula(request["formula"]) if request["formula"] else anywhere(request["answer"])
    if not answer:
        return {"value": 0.0, "detail": "the answer holds no mathematics that can be parsed"}
    if isinstance(gold[0], Number) and left_to_do(answer[0]):
        return {"value": 0.0, "detail": "a number is asked for, and the answer leaves a sum or product to work out"}
    try:
        right = verify(gold, answer, float_rounding=request["precision"], timeout_seconds=None, raise_on_error=True)
        right = right and near(gold[0], answer[0], request["precision"])
    except (*COMPARISON_ERRORS, ValueError) as error:
        return {"failed": f"the answer cannot be compared with the reference: {type(error).__name__}"}
    return {"value": float(right), "detail": f"compared with {request['reference'][:200]}"}


def formula(text: str) -> list[Any]:
    """Read LaTeX and nothing else: a number in a formula that cannot be read is not its value."""
    if not any(delimiter in text for delimiter in DELIMITERS):
        text = f"${text}$"
    return read(text, LatexExtractionConfig())


def anywhere(text: str) -> list[Any]:
    """Read the last formula of a text, else the last number outside of formulas."""
    if not any(delimiter in text for delimiter in DELIMITERS):
        return read(text, LatexExtractionConfig(), ExprExtractionConfig())
    return read(text, LatexExtractionConfig()) or read(DELIMITED.sub(" ", text), ExprExtractionConfig())


def read(text: str, *targets: LatexExtractionConfig | ExprExtractionConfig) -> list[Any]:
    """Have math-verify read; empty where it finds nothing."""
    found: list[Any] = parse(text, targets, fallback_mode="no_fallback", parsing_timeout=None)
    return found


def left_to_do(answer: Any) -> bool:
    """Tell whether an answer leaves a sum or a product of numbers to whoever reads it, which a question may be itself.

    A fraction, a power, a root and a number times a power of ten are numbers as they stand; of an equation the right
    side is the answer.
    """
    said = answer.rhs if isinstance(answer, Eq) else answer
    return isinstance(said, Basic) and any(map(_undone, preorder_traversal(said)))


def _undone(part: Basic) -> bool:
    if isinstance(part, Add):
        return bool(part.is_number) and all(one.is_rational is not False for one in part.args)  # None of a float
    return isinstance(part, Mul) and sum(isinstance(one, Number) and abs(one) != 1 for one in part.args) > 1


def near(gold: Any, answer: Any, precision: int) -> bool:
    """Compare numbers of which rounding to decimal places leaves little by their size; all others are near."""
    values = [one.rhs if isinstance(one, Eq) else one for one in (gold, answer)]
    if not all(isinstance(value, Expr) and value.is_number and value.is_real for value in values):
        return True
    wanted, given = (float(value) for value in values)
    if wanted == 0 or abs(wanted) >= 10.0 ** (FEWEST_DIGITS - precision):
        return True
    return abs(given - wanted) <= NEAR * abs(wanted)


def judge_similarity(request: dict[str, Any]) -> dict[str, Any]:
    """Return the fuzzy match ratio in [0, 1]: twice the matching characters over all characters (difflib)."""
    matcher = SequenceMatcher(None, request["reference"], request["answer"], autojunk=False)
    return {"value": matcher.ratio(), "detail": "fuzzy_match"}


def judges() -> Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]]:
    """Give what this child can be asked, by name."""
    return {"math": judge_math, "fuzzy_match": judge_similarity}
