"""Numbers as people write them, found in a text and brought to one spelling.

`$1,234.50`, `"1234.5"` and `x = 1234.5` hold one number, `1,2` two, `3/2`, `1 1/2` and `1.5` are one value. Leaves out
words, percent and units: what stands beside a number does not count. Every pattern is linear in the text.
"""

import re
from fractions import Fraction

MINUS = "-\N{MINUS SIGN}\N{EN DASH}"
NARROW_SPACES = "\N{NO-BREAK SPACE}\N{THIN SPACE}\N{NARROW NO-BREAK SPACE}"
# Between three digits and three: 1,234 and, in LaTeX, 1{,}234 and 1\,234. A plain space separates two numbers.
_GROUPED = rf"\d{{1,3}}(?:(?:,|\{{,\}}|\\[,!]|[{NARROW_SPACES}])\d{{3}})+(?!\d)"
_DECIMAL = rf"(?:(?:{_GROUPED}|\d+)(?:\.\d+)?|(?<!\d)\.\d+)(?:[eE][+\-]?\d{{1,9}}(?!\w))?"
_FRACTION = r"(?:\d{1,9} )?\d{1,9}/\d{1,9}(?![\d/])"
# A sign counts unless it follows a number, a name or a bracket, where it subtracts.
_SIGN = r"(?:(?<![\w)\]}])[+\-\N{MINUS SIGN}\N{EN DASH}])?"
NUMBER = re.compile(rf"{_SIGN}(?:(?<![\d/]){_FRACTION}|{_DECIMAL})", re.ASCII)
LATEX_FRACTION = re.compile(r"(\d?)\\[dt]?frac\{(\d{1,9})\}\{(\d{1,9})\}", re.ASCII)
SEPARATORS = re.compile(rf"[,{NARROW_SPACES}]|\{{,\}}|\\[,!]")

LONGEST = 60  # characters; a longer number is compared digit by digit
MOST_ZEROS = 60  # written for an exponent; a greater one stays an exponent


def last_number(text: str) -> str | None:
    """Return the last number of a text in its one spelling, None when there is none."""
    numbers = NUMBER.findall(LATEX_FRACTION.sub(_on_one_line, text))
    return plain_number(numbers[-1]) if numbers else None


def _on_one_line(found: re.Match[str]) -> str:
    return f"{found[1]} {found[2]}/{found[3]}" if found[1] else f"{found[2]}/{found[3]}"


def is_number(text: str) -> bool:
    """Return whether the text is one number and nothing else."""
    return NUMBER.fullmatch(text) is not None


def plain_number(written: str) -> str:
    """Return one spelling of a number that `NUMBER` matches: '+1,234.50', '01234.5' and '2469/2' all give '1234.5'."""
    sign = "-" if written[0] in MINUS else ""
    unsigned = SEPARATORS.sub("", written.lstrip("+" + MINUS))
    value = value_of(unsigned) if len(unsigned) <= LONGEST else None
    number = trimmed(unsigned) if value is None else spelled(value)
    return number if number == "0" else sign + number


def value_of(unsigned: str) -> Fraction | None:
    """Return the value of a short number, None where it divides by zero or its exponent is beyond all use."""
    whole, _, fraction = unsigned.rpartition(" ")
    if "/" in fraction:
        above, below = map(int, fraction.split("/"))
        if below == 0:
            return None
        proper = Fraction(above, below)
        return proper + int(whole or 0) if proper < 1 else proper  # 1 1/2 is mixed, in 3 4/2 the 3 is another number
    _, _, exponent = unsigned.lower().partition("e")
    return Fraction(unsigned) if abs(int(exponent or 0)) <= MOST_ZEROS else None


def trimmed(unsigned: str) -> str:
    """Return a number without zeros that do not count; one with an exponent as it stands."""
    whole, _, decimals = unsigned.partition(".")
    if not (whole + decimals).isdigit():
        return unsigned
    whole, decimals = whole.lstrip("0") or "0", decimals.rstrip("0")
    return f"{whole}.{decimals}" if decimals else whole


def spelled(value: Fraction) -> str:
    """Write a value, not negative: as a decimal where that ends, else as a fraction in lowest terms."""
    below, places = value.denominator, 0
    while below % 10 == 0:
        below, places = below // 10, places + 1
    for factor in (2, 5):
        while below % factor == 0:
            below, places = below // factor, places + 1
    if below > 1:
        return f"{value.numerator}/{value.denominator}"
    digits = str(int(value * 10**places)).zfill(places + 1)
    return f"{digits[: len(digits) - places]}.{digits[len(digits) - places :]}" if places else digits
