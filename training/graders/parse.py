"""From a spec, a JSON object in the vocabulary of OpenAI's graders, to the grader it names.

Leaves out running it: see `Grader.grade`.
"""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from training.graders.children import Children, shared_children
from training.graders.countdown import read_countdown
from training.graders.formula import CALLS, MAX_LENGTH, Formula
from training.graders.grader import Grader
from training.graders.gym import read_gym
from training.graders.math_answer import read_math
from training.graders.multi import Multi
from training.graders.path import read_path
from training.graders.spec import MAX_NAME, GraderSpecError, SpecFields
from training.graders.string_check import read_string_check
from training.graders.text_similarity import read_text_similarity

READERS: Mapping[str, Callable[[SpecFields], Grader]] = MappingProxyType(
    {"string_check": read_string_check, "countdown": read_countdown, "path": read_path, "reasoning_gym": read_gym}
)
TYPES = (*READERS, "text_similarity", "math", "multi")
MAX_PARTS = 8  # graders of one multi
MAX_SPEC = 65_536  # characters of the whole spec as JSON; it is stored with every choice
MAX_DEPTH = 2  # a multi in a multi, and no deeper


def parse_grader(spec: Mapping[str, Any], *, children: Children | None = None) -> Grader:
    r"""Check a spec and return its grader.

    Args:
        spec: for example {"type": "math", "reference": "\\frac{1}{2}"}.
        children: the processes for gradings that can hang; those of this process when None.

    Raises:
        GraderSpecError: the spec is wrong; `param` names the field.

    """
    if len(json.dumps(spec, default=str)) > MAX_SPEC:
        raise GraderSpecError("grader", f"must have at most {MAX_SPEC} characters as JSON")
    return read_grader(spec, "grader", children or shared_children(), depth=1)


def read_grader(spec: object, path: str, children: Children, depth: int) -> Grader:
    """Read the grader at `path` of a larger spec."""
    fields = SpecFields(spec, path)
    kind = fields.choice("type", TYPES)
    if kind in READERS:
        return READERS[kind](fields)
    match kind:
        case "text_similarity":
            return read_text_similarity(fields, children)
        case "math":
            return read_math(fields, children)
        case _:
            return read_multi(fields, children, depth)


def read_multi(fields: SpecFields, children: Children, depth: int) -> Multi:
    """Read a multi and its parts."""
    if depth > MAX_DEPTH:
        raise GraderSpecError(fields.path, f"is nested deeper than {MAX_DEPTH} multi graders")
    name = fields.text("name", MAX_NAME, "multi")
    parts = fields.take("graders")
    if not isinstance(parts, Mapping) or not 1 <= len(parts) <= MAX_PARTS:
        raise fields.error("graders", f"must be an object of 1 to {MAX_PARTS} named graders")
    for part in parts:
        if not (isinstance(part, str) and part.isidentifier() and len(part) <= MAX_NAME) or part in CALLS:
            raise fields.error("graders", f"has the name {str(part)[:MAX_NAME]!r}; use letters, digits and underscores")
    graders = {
        part: read_grader(part_spec, f"{fields.path}.graders.{part}", children, depth + 1)
        for part, part_spec in parts.items()
    }
    text = fields.text("calculate_output", MAX_LENGTH)
    formula = Formula.parse(text, frozenset(graders), f"{fields.path}.calculate_output")
    fields.close()
    return Multi(name, graders, formula)
