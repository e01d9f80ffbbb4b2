"""The arithmetic of `multi`: a formula over the values of its graders.

Parsed by Python's own parser and then walked; nothing is ever evaluated by the interpreter. Knows + - * /, numbers,
names, parentheses, min and max, and nothing else.
"""

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from training.graders.spec import GraderSpecError

MAX_LENGTH = 500  # characters
MAX_NODES = 100  # parts of the parsed formula
MAX_NUMBER = 1e6  # absolute value of a number written in it
CALLS: Mapping[str, Callable[..., float]] = {"min": min, "max": max}


@dataclass(frozen=True, slots=True)
class Formula:
    """A checked formula. Example: `Formula.parse("0.8 * right + 0.2 * max(short, 0.5)", {"right", "short"}, path)`."""

    text: str
    tree: ast.expr

    @classmethod
    def parse(cls, text: str, names: frozenset[str], path: str) -> "Formula":
        """Check the formula and every part of it.

        Raises:
            GraderSpecError: it is no formula, or uses a name that is not in `names`.

        """
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, RecursionError, ValueError, MemoryError) as error:
            raise GraderSpecError(path, "is not an arithmetic formula") from error
        if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
            raise GraderSpecError(path, f"has more than {MAX_NODES} parts")
        check(tree, names, path)
        return cls(text, tree)

    def value(self, values: Mapping[str, float]) -> float:
        """Return the formula's value.

        Raises:
            ZeroDivisionError: it divides by zero for these values.

        """
        return evaluate(self.tree, values)


def check(node: ast.expr, names: frozenset[str], path: str) -> None:
    """Refuse any part of a formula that `evaluate` does not know."""
    match node:
        case ast.Constant(value=True | False):
            raise GraderSpecError(path, "may not use True or False; write 1 or 0")
        case ast.Constant(value=int() | float() as number):
            if not abs(number) <= MAX_NUMBER:
                raise GraderSpecError(path, f"may not use numbers beyond {MAX_NUMBER:g}")
        case ast.Name(id=name):
            if name not in names:
                raise GraderSpecError(path, f"uses {name!r}, which is none of its graders: {', '.join(sorted(names))}")
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            check(operand, names, path)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div(), right=right):
            check(left, names, path)
            check(right, names, path)
        case ast.Call(func=ast.Name(id="min" | "max"), args=[_, _, *_] as args, keywords=[]):
            for argument in args:
                check(argument, names, path)
        case _:
            raise GraderSpecError(path, "may use only + - * / ( ) min(a, b) max(a, b), numbers and its graders' names")


def evaluate(node: ast.expr, values: Mapping[str, float]) -> float:
    """Return the value of a part that `check` let pass."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name):
            return values[name]
        case ast.UnaryOp(op=op, operand=operand):
            inner = evaluate(operand, values)
            return -inner if isinstance(op, ast.USub) else inner
        case ast.BinOp(left=left, op=op, right=right):
            return combine(op, evaluate(left, values), evaluate(right, values))
        case ast.Call(func=ast.Name(id=name), args=args):
            return CALLS[name](*(evaluate(argument, values) for argument in args))
    raise AssertionError(f"an unchecked part in a formula: {ast.dump(node)}")


def combine(operator: ast.operator, left: float, right: float) -> float:
    """Return `left operator right`."""
    match operator:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case _:
            return left / right
