"""An example of a redacting function: e-mail addresses, telephone and card numbers, and keys become a word in brackets.

    LEPO_REDACT=app.redaction.patterns:redact

It finds what has a shape. Names, places and what people tell of themselves have none: a service that must take these
out names a function of its own. Wrongly taken out are long numbers that only look like a telephone's, so it is not for
a model that learns sums.
"""

import re
from typing import Final

EMAIL: Final = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.)+[^\W\d_]{2,24}(?![\w-])")
# Private key blocks; prefixes that services give their keys; `Bearer ...`; this product's own keys.
KEY: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\b(?:sk|pk|rk)[-_][A-Za-z0-9_-]{16,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}|\bxox[abprs]-[A-Za-z0-9-]{10,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[A-Za-z0-9_-]{30,}|\bhf_[A-Za-z0-9]{20,}"
    r"|\blepo-[a-z0-9]{4,}-[A-Za-z0-9_-]{16,}"
    r"|(?<=\bBearer )[A-Za-z0-9._~+/=-]{16,}"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{5,}",
    re.DOTALL,
)
NUMBER: Final = re.compile(r"(?<![\w.,+])\+?\(?\d(?:[ ().\-/]{0,2}\d){6,18}(?![\w])")
SEPARATED: Final = re.compile(r"[ ().\-/]")


def redact(text: str) -> str:
    """Replace what has the shape of an address, a key or a number that belongs to somebody."""
    text = KEY.sub("[key]", text)
    text = EMAIL.sub("[email]", text)
    return NUMBER.sub(named, text)


def named(found: re.Match[str]) -> str:
    """Say what a run of digits is: a card by its check digit, a telephone by its prefix or grouping; else leave it."""
    written = found[0]
    digits = [int(one) for one in written if one.isdecimal()]
    if 13 <= len(digits) <= 19 and checks(digits):
        return "[card]"
    grouped = len(SEPARATED.findall(written)) >= 2 and not re.fullmatch(r"\d{4}-\d{2}-\d{2}(?:[ ]\d{2})?", written)
    if len(digits) <= 15 and (grouped or written.startswith(("+", "0"))):
        return "[phone]"
    return written


def checks(digits: list[int]) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812)."""
    doubled = [digit if place % 2 == 0 else 2 * digit - 9 * (digit > 4) for place, digit in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0
