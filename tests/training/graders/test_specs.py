"""A wrong spec is refused with the dotted path of its bad field; a right one gives a grader with an identity."""

from typing import Any

import pytest

from training.graders.parse import parse_grader
from training.graders.spec import MAX_REFERENCE, GraderSpecError

CHECK = {"type": "string_check", "reference": "54", "operation": "eq"}
COUNTDOWN = {"type": "countdown", "numbers": [1, 2], "target": 3}
PATH = {"type": "path", "edges": [["A", "B"]], "start": "A", "goal": "B"}
GYM = {"type": "reasoning_gym", "dataset": "chain_sum", "seed": 1, "index": 0}
DEEP = {"type": "multi", "graders": {"a": CHECK}, "calculate_output": "a"}
FORMULA = "grader.calculate_output"


def multi(formula: str, **graders: Any) -> dict[str, Any]:
    return {"type": "multi", "graders": graders or {"a": CHECK, "b": CHECK}, "calculate_output": formula}


@pytest.mark.parametrize(
    ("spec", "param"),
    [
        ([], "grader"),
        ("math", "grader"),
        ({}, "grader.type"),
        ({"type": "python"}, "grader.type"),
        ({"type": ["math"]}, "grader.type"),
        ({**CHECK, "operation": "EQ"}, "grader.operation"),
        ({"type": "string_check", "operation": "eq"}, "grader.reference"),
        ({**CHECK, "reference": 54}, "grader.reference"),
        ({**CHECK, "reference": "  "}, "grader.reference"),
        ({**CHECK, "reference": "x" * (MAX_REFERENCE + 1)}, "grader.reference"),
        ({**CHECK, "extract": "last_number", "reference": "fifty"}, "grader.reference"),
        ({**CHECK, "extract": "last_number", "reference": "5 4"}, "grader.reference"),
        ({**CHECK, "extract": ".*"}, "grader.extract"),
        ({**CHECK, "extract": "after_marker"}, "grader.marker"),
        ({**CHECK, "marker": "Answer:"}, "grader.marker"),
        ({**CHECK, "name": ""}, "grader.name"),
        ({**CHECK, "pattern": "a"}, "grader.pattern"),
        ({"type": "math", "reference": "1", "precision": 0}, "grader.precision"),
        ({"type": "math", "reference": "1", "precision": True}, "grader.precision"),
        ({"type": "text_similarity", "reference": "a"}, "grader.evaluation_metric"),
        ({"type": "text_similarity", "reference": "a", "evaluation_metric": "bleu"}, "grader.evaluation_metric"),
        ({"type": "countdown", "target": 3}, "grader.numbers"),
        ({**COUNTDOWN, "numbers": []}, "grader.numbers"),
        ({**COUNTDOWN, "numbers": [1] * 21}, "grader.numbers"),
        ({**COUNTDOWN, "numbers": [1, True]}, "grader.numbers"),
        ({**COUNTDOWN, "numbers": [1, -2]}, "grader.numbers"),
        ({**COUNTDOWN, "numbers": "12"}, "grader.numbers"),
        ({**COUNTDOWN, "target": 2.5}, "grader.target"),
        ({"type": "countdown", "numbers": [1, 2]}, "grader.target"),
        ({**COUNTDOWN, "use": "any"}, "grader.use"),
        ({**COUNTDOWN, "reference": "1 + 2"}, "grader.reference"),
        ({**PATH, "edges": []}, "grader.edges"),
        ({**PATH, "edges": [["A", "B"]] * 1001}, "grader.edges"),
        ({**PATH, "edges": [["A"]]}, "grader.edges"),
        ({**PATH, "edges": ["AB"]}, "grader.edges"),
        ({**PATH, "edges": [["A", "B C"]]}, "grader.edges"),
        ({**PATH, "edges": [["A", 2]]}, "grader.edges"),
        ({**PATH, "edges": {"A": "B"}}, "grader.edges"),
        ({**PATH, "start": "A>"}, "grader.start"),
        ({"type": "path", "edges": [["A", "B"]], "start": "A"}, "grader.goal"),
        ({**PATH, "goal": "A"}, "grader.goal"),
        ({**PATH, "directed": False}, "grader.directed"),
        ({**GYM, "dataset": "Chain Sum"}, "grader.dataset"),
        ({"type": "reasoning_gym", "seed": 1, "index": 0}, "grader.dataset"),
        ({**GYM, "seed": -1}, "grader.seed"),
        ({**GYM, "seed": 1.5}, "grader.seed"),
        ({**GYM, "index": 500}, "grader.index"),
        ({**GYM, "size": 10, "index": 10}, "grader.index"),
        ({**GYM, "size": 0}, "grader.size"),
        ({**GYM, "digest": "none"}, "grader.digest"),
        ({**GYM, "config": [1]}, "grader.config"),
        ({**GYM, "config": {"a b": 1}}, "grader.config"),
        ({**GYM, "config": {"min_terms": {"x": 1}}}, "grader.config.min_terms"),
        ({**GYM, "config": {"min_terms": "x" * 101}}, "grader.config.min_terms"),
        ({**GYM, "extract": "tags"}, "grader.extract"),
        ({**GYM, "answer": "5"}, "grader.answer"),
        ({"type": "multi", "graders": {}, "calculate_output": "1"}, "grader.graders"),
        ({"type": "multi", "graders": {"a b": CHECK}, "calculate_output": "1"}, "grader.graders"),
        ({"type": "multi", "graders": {"min": CHECK}, "calculate_output": "1"}, "grader.graders"),
        ({"type": "multi", "graders": {"a": CHECK}}, "grader.calculate_output"),
        (multi("a", a={**CHECK, "operation": 1}), "grader.graders.a.operation"),
        (multi("a", a=multi("b", b={**CHECK, "extract": 1})), "grader.graders.a.graders.b.extract"),
        (multi("a", a=multi("a", a=DEEP)), "grader.graders.a.graders.a"),
        (multi("1", **{f"g{i}": CHECK for i in range(9)}), "grader.graders"),
        (multi("c"), FORMULA),
        (multi("a +"), FORMULA),
        (multi("a ** b"), FORMULA),
        (multi("a if b else 1"), FORMULA),
        (multi("a < b"), FORMULA),
        (multi("abs(a)"), FORMULA),
        (multi("min(a)"), FORMULA),
        (multi("min(*a)"), FORMULA),
        (multi("__import__('os')"), FORMULA),
        (multi("a.real"), FORMULA),
        (multi("'a'"), FORMULA),
        (multi("True"), FORMULA),
        (multi("1j"), FORMULA),
        (multi("9e999"), FORMULA),
        (multi("10000000"), FORMULA),
        (multi("(" * 240 + "a" + ")" * 240), FORMULA),
        (multi("a" + "+a" * 100), FORMULA),
        (multi("a" + "+a" * 300), FORMULA),
    ],
)
def test_a_wrong_spec_names_its_field(spec: Any, param: str) -> None:
    with pytest.raises(GraderSpecError) as caught:
        parse_grader(spec)
    assert caught.value.param == param
    assert str(caught.value).startswith(param)


def test_a_grader_has_an_identity_for_the_ledger() -> None:
    named = parse_grader({**CHECK, "name": "exact"})
    assert (named.kind, named.name, named.version) == ("string_check", "exact", "2")
    math = parse_grader({"type": "math", "reference": "1"})
    assert math.kind == math.name == "math"
    assert "math-verify" in math.version
    both = parse_grader(multi("a * b", a=CHECK, b={"type": "math", "reference": "1"}))
    assert math.version in both.version
