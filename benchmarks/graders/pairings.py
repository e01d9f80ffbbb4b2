"""Which of our graders fits which dataset of reasoning-gym, and how an answer of each kind is decorated and corrupted.

Leaves out asking both sides (see `comparison`).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from training.graders.number import is_number
from training.tasks.problem import Problem

Kind = Literal["number", "expression", "countdown", "string"]
Spec = Callable[[Problem], dict[str, Any]]  # a problem to the spec of our grader for it


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to answer."""

    name: str
    text: str  # the reply
    right: bool  # what a reader who sees the question would say


@dataclass(frozen=True, slots=True)
class Pairing:
    """A dataset and those of our graders that fit it."""

    dataset: str
    kind: Kind
    ours: Mapping[str, Spec]  # by the name shown
    config: str = ""  # as in a source: key=value,...


def last_number(problem: Problem) -> dict[str, Any]:
    """Compare the last number."""
    return {"type": "string_check", "operation": "eq", "reference": problem.answer, "extract": "last_number"}


def mathematics(problem: Problem) -> dict[str, Any]:
    """Compare as mathematics."""
    return {"type": "math", "reference": problem.answer, "extract": "answer"}


def same_text(problem: Problem) -> dict[str, Any]:
    """Compare as text."""
    return {"type": "string_check", "operation": "eq", "reference": problem.answer, "extract": "answer"}


def reached(problem: Problem) -> dict[str, Any]:
    """Work out an expression; target and numbers stand in the question."""
    first_line = problem.prompt.partition("\n")[0].partition("You can")[0]
    listed = re.search(r"\d+(?:, \d+)+", first_line)
    assert listed is not None, f"no numbers in {problem.prompt!r}"
    numbers = [int(each) for each in listed[0].split(", ")]
    [target] = re.findall(r"\d+", first_line.replace(listed[0], ""))
    return {"type": "countdown", "numbers": numbers, "target": int(target), "extract": "answer"}


NUMBER: Mapping[str, Spec] = MappingProxyType({"last_number": last_number, "math": mathematics})
EXPRESSION: Mapping[str, Spec] = MappingProxyType({"math": mathematics})
COUNTDOWN: Mapping[str, Spec] = MappingProxyType({"countdown": reached})
STRING: Mapping[str, Spec] = MappingProxyType({"string_check": same_text})

PAIRINGS = (
    Pairing("chain_sum", "number", NUMBER, "allow_negation=true"),
    Pairing("basic_arithmetic", "number", NUMBER),
    Pairing("products", "number", NUMBER),
    Pairing("gcd", "number", NUMBER),
    Pairing("lcm", "number", NUMBER),
    Pairing("leg_counting", "number", NUMBER),
    Pairing("letter_counting", "number", NUMBER),
    Pairing("simple_equations", "number", NUMBER),
    Pairing("simple_geometry", "number", NUMBER),
    Pairing("number_sequence", "number", NUMBER),
    Pairing("gsm_symbolic", "number", NUMBER),
    Pairing("decimal_chain_sum", "number", NUMBER),
    Pairing("decimal_arithmetic", "number", NUMBER),
    Pairing("dice", "number", NUMBER),
    Pairing("complex_arithmetic", "expression", EXPRESSION),
    Pairing("polynomial_multiplication", "expression", EXPRESSION),
    Pairing("simple_integration", "expression", EXPRESSION),
    Pairing("countdown", "countdown", COUNTDOWN, "min_numbers=3,max_numbers=4"),
    Pairing("puzzle24", "countdown", COUNTDOWN),
    Pairing("spell_backward", "string", STRING),
    Pairing("caesar_cipher", "string", STRING),
    Pairing("word_sorting", "string", STRING),
    Pairing("syllogism", "string", STRING),
    Pairing("isomorphic_strings", "string", STRING),
    Pairing("base_conversion", "string", STRING),
    Pairing("sentence_reordering", "string", STRING),
)


def variants(problem: Problem, kind: Kind) -> Iterator[Variant]:
    """Answer a problem rightly, decorated in many ways, and wrongly, near the right answer."""
    answer = problem.answer.strip()
    yield from decorated(answer)
    yield Variant("empty", " ", right=False)
    yield Variant("nonsense", "I do not know", right=False)
    match kind:
        case "number":
            if is_number(answer):
                yield from numbers(answer)
        case "expression":
            yield Variant("spaced", answer.replace(" ", ""), right=True)
            yield Variant("dollars", f"It is ${latex(answer)}$.", right=True)
            yield Variant("one more", f"{answer} + {unknown(answer)}", right=False)
            if answer.endswith(" + C"):
                yield Variant("without its constant", answer.removesuffix(" + C"), right=True)
            yield Variant("doubled", f"2*({answer})", right=False)
        case "countdown":
            printed = answer.replace("*", "\N{MULTIPLICATION SIGN}").replace("-", "\N{MINUS SIGN}")
            yield Variant("printed signs", printed, right=True)
            yield Variant("another number", f"{answer} + 1", right=False)
            yield Variant("value alone", str(reached(problem)["target"]), right=False)
            yield Variant("without the last", answer.rpartition(" ")[0].rstrip("+-*/ "), right=False)
        case "string":
            yield Variant("one letter more", f"{answer}x", right=False)
            yield Variant("one letter less", answer[:-1], right=False)
            yield Variant("inside a sentence", f"perhaps {answer} or not", right=False)


def decorated(answer: str) -> Iterator[Variant]:
    """Give an answer as models do."""
    stop = "" if answer.endswith((".", "?", "!")) else "."
    yield Variant("plain", answer, right=True)
    yield Variant("sentence", f"The answer is {answer}{stop}", right=True)
    yield Variant("announced", f"Let me see.\n**Answer:** {answer}\n", right=True)
    yield Variant("tags", f"I think so.\n<answer>{answer}</answer>", right=True)
    yield Variant("boxed", f"So it is \\boxed{{{answer}}}", right=True)
    if '"' not in answer:
        yield Variant("quotes", f'"{answer}"', right=True)
    if "**" not in answer:  # where it is Python's power
        yield Variant("bold", f"**{answer}**", right=True)


def numbers(answer: str) -> Iterator[Variant]:
    """Write a number in other ways, and other numbers."""
    yield Variant("dollars", f"${answer}$", right=True)
    yield Variant("equation", f"x = {answer}", right=True)
    yield Variant("brackets", f"[{answer}]", right=True)
    yield Variant("money", f"It costs \\${answer}", right=True)
    yield Variant("unit", f"{answer} apples", right=True)
    yield Variant("plus", f"+{answer}" if answer[0] != "-" else answer, right=True)
    if "/" not in answer:
        yield Variant("decimals", f"{answer}0" if "." in answer else f"{answer}.0", right=True)
        yield Variant("zeros before", f"-00{answer[1:]}" if answer[0] == "-" else f"00{answer}", right=True)
        yield Variant("another digit", another(answer), right=False)
    if answer[0] == "-":
        yield Variant("typographic minus", f"\N{MINUS SIGN}{answer[1:]}", right=True)
    if answer.isdigit() and len(answer) > 3:
        yield Variant("grouped", f"{int(answer):,}", right=True)
        yield Variant("grouped in LaTeX", f"{int(answer):,}".replace(",", "{,}"), right=True)
    if answer.isdigit() and len(answer) > 1:
        yield Variant("separated", f"{answer[0]}, {answer[1:]}", right=False)
        if len(answer) != 4:
            yield Variant("separated, no space", f"{answer[0]},{answer[1:]}", right=False)
    if answer.strip("-0."):
        yield Variant("negated", answer[1:] if answer[0] == "-" else f"-{answer}", right=False)
        yield Variant("halved", f"{answer}/2" if "/" not in answer else f"2*{answer}", right=False)
    yield Variant("taken back", f"{answer} is wrong. Answer: {another(answer)}", right=False)
    yield Variant("in a formula", f"\\foo{{{answer}}}", right=False)


def unknown(expression: str) -> str:
    """Return the first letter of an expression."""
    letters = re.findall(r"[A-Za-z]", expression)
    return letters[0] if letters else "1"


def another(number: str) -> str:
    """Write a number with one digit more before its point."""
    whole, point, decimals = number.partition(".")
    return f"{whole}1{point}{decimals}"


def latex(expression: str) -> str:
    """Write Python's powers and products as LaTeX's."""
    return re.sub(r"\*\*(\d+)", r"^{\1}", expression).replace("*", " ")
