"""What a written number would cost to work out: towers of powers and factorials that no machine finishes.

A caller's reference is read by a computer algebra system, which works out whatever numbers are written. Only what can
be seen in the text is refused here, so that it is refused at once and by name; what cannot is ended by the grader's
deadline, in a process that can be killed.
"""

import math
import re

MOST_DIGITS = 10_000  # of a number worked out; one with more is nobody's answer
LARGEST_FACTORIAL = 3_000  # 3000! has some 9,000 digits

POWER = r"\s*(?:\^|\*\*)\s*[{(\[\s]*"  # and what may open the exponent
TOWER = re.compile(rf"\d+(?:{POWER}\d+)+")
FACTORIAL = re.compile(r"(\d+)\s*[)}\]]*\s*(!+)")


def too_costly(text: str) -> str | None:
    """Say why a text must not be worked out, or None."""
    if any(digits(tower) > MOST_DIGITS for tower in TOWER.findall(text)):
        return f"holds a power with more than {MOST_DIGITS} digits"
    for number, signs in FACTORIAL.findall(text):
        if (
            len(number) > len(str(LARGEST_FACTORIAL))
            or int(number) > LARGEST_FACTORIAL
            or (len(signs) > 1 < len(number))
        ):
            return f"holds a factorial of a number beyond {LARGEST_FACTORIAL}"
    return None


def digits(tower: str) -> float:
    """Estimate the digits of `a^{b^{c}}`, worked out from the right; infinite where they cannot be counted."""
    levels = [int(number[:400]) for number in re.findall(r"\d+", tower)]
    exponent = levels.pop()
    while levels:
        base = levels.pop()
        size = 0.0 if base < 2 else exponent * math.log10(base)
        if size > MOST_DIGITS:
            return math.inf
        exponent = base**exponent
    return size
