"""Problems in a JSONL file: one object per line with `prompt`, `answer` and `grader`.

`grader` may be left out, which means `math` with the answer as its reference; `family` and `difficulty` may too.
Errors name the file, the line and the field. Leaves out known data sets, which have layouts of their own.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.graders.parse import parse_grader
from training.graders.spec import GraderSpecError
from training.tasks.problem import Problem

FIELDS = ("prompt", "answer", "grader", "family", "difficulty")


class ProblemFileError(ValueError):
    """A line of a problem file is wrong."""

    def __init__(self, path: Path, line: int, problem: str) -> None:
        super().__init__(f"{path}:{line}: {problem}")
        self.path = path
        self.line = line  # from 1


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    """Write one line per problem."""
    path.write_text(as_lines(problems), encoding="utf-8")


def as_lines(problems: Iterable[Problem]) -> str:
    """Give the text of such a file."""
    return "".join(json.dumps(asdict(problem), ensure_ascii=False) + "\n" for problem in problems)


def read_problems(path: Path) -> list[Problem]:
    """Read the problems of a file; blank lines are skipped.

    Raises:
        ProblemFileError: a line is no problem; the message names it.
        OSError: the file cannot be read.

    """
    with path.open(encoding="utf-8") as lines:
        return [read_problem(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def read_problem(path: Path, number: int, line: str) -> Problem:
    """Read one line."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ProblemFileError(path, number, f"is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ProblemFileError(path, number, "must be an object")
    for field in row:
        if field not in FIELDS:
            raise ProblemFileError(path, number, f"{field} is not a field of a problem; known: {', '.join(FIELDS)}")
    prompt, answer = (read_text(path, number, row, field) for field in ("prompt", "answer"))
    grader = row.get("grader", {"type": "math", "reference": answer})
    try:
        parse_grader(grader)
    except GraderSpecError as error:
        raise ProblemFileError(path, number, str(error)) from error
    family, difficulty = row.get("family", ""), row.get("difficulty", 0)
    if not isinstance(family, str):
        raise ProblemFileError(path, number, "family must be a string")
    if isinstance(difficulty, bool) or not isinstance(difficulty, int) or difficulty < 0:
        raise ProblemFileError(path, number, "difficulty must be a whole number, 0 or more")
    return Problem(prompt, answer, grader, family, difficulty)


def read_text(path: Path, number: int, row: dict[str, Any], field: str) -> str:
    """Return a field that must be a non-empty text."""
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ProblemFileError(path, number, f"{field} must be a non-empty string")
    return value
