"""Exact arithmetic written by a stranger: whole numbers, + - * / and parentheses, and nothing else.

Read by a parser of its own, so the text never reaches an interpreter; values are fractions, so division is exact.
Leaves out signs before a number, powers, decimals and names.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_LENGTH = 300  # characters
MAX_DEPTH = 20  # nested parentheses
SPELLINGS = str.maketrans({"\N{MULTIPLICATION SIGN}": "*", "\N{DIVISION SIGN}": "/", "\N{MINUS SIGN}": "-"})
PART = re.compile(r"\s*(?:([0-9]{1,6})(?![0-9])|([-+*/()]))")


class ExpressionError(ValueError):
    """The text is no expression, or has no value."""


@dataclass(frozen=True, slots=True)
class Value:
    """What an expression comes to, and the numbers written in it. Example: `(1 + 2) * 3` is 9, from 1, 2 and 3."""

    total: Fraction
    numbers: tuple[int, ...]  # in the order written


def read_expression(text: str) -> Value:
    """Return the value of an expression.

    Raises:
        ExpressionError: it is malformed, too long, too deep, or divides by zero; the message says which.

    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"is longer than {MAX_LENGTH} characters")
    parts = split_parts(text.translate(SPELLINGS).strip())
    reader = Reader(parts)
    total = reader.read_sum(depth=0)
    if reader.peek() is not None:
        raise ExpressionError(f"has {reader.peek()!r} where an operation should be")
    return Value(total, tuple(int(part) for part in parts if part.isdigit()))


def split_parts(text: str) -> list[str]:
    """Split a text into numbers, operations and parentheses."""
    parts, at = [], 0
    while at < len(text):
        match = PART.match(text, at)
        if match is None:
            raise ExpressionError(f"has {text[at : at + 10]!r}, which is not arithmetic on whole numbers")
        parts.append(match[1] or match[2])
        at = match.end()
    return parts


class Reader:
    """Reads parts from left to right: a sum of products of numbers and parenthesised sums."""

    def __init__(self, parts: list[str]) -> None:
        self.parts = parts
        self.at = 0

    def peek(self) -> str | None:
        """Return the next part, None at the end."""
        return self.parts[self.at] if self.at < len(self.parts) else None

    def take(self) -> str:
        """Return the next part and go past it."""
        part = self.peek()
        if part is None:
            raise ExpressionError("ends too early")
        self.at += 1
        return part

    def read_sum(self, depth: int) -> Fraction:
        """Read products joined by + and -."""
        total = self.read_product(depth)
        while self.peek() in {"+", "-"}:
            sign = 1 if self.take() == "+" else -1
            total += sign * self.read_product(depth)
        return total

    def read_product(self, depth: int) -> Fraction:
        """Read numbers and parentheses joined by * and /."""
        total = self.read_atom(depth)
        while self.peek() in {"*", "/"}:
            divides = self.take() == "/"
            factor = self.read_atom(depth)
            if divides and factor == 0:
                raise ExpressionError("divides by zero")
            total = total / factor if divides else total * factor
        return total

    def read_atom(self, depth: int) -> Fraction:
        """Read a number or a parenthesised sum."""
        part = self.take()
        if part.isdigit():
            return Fraction(int(part))
        if part != "(":
            raise ExpressionError(f"has {part!r} where a number should be")
        if depth == MAX_DEPTH:
            raise ExpressionError(f"is nested deeper than {MAX_DEPTH} parentheses")
        total = self.read_sum(depth + 1)
        if self.take() != ")":
            raise ExpressionError("lacks a closing parenthesis")
        return total
