"""Problems from exported answers: each question that one user asked in one message and that came with a grader, once.

The model's answers and the grades they got are not looked at: `lepo train` draws its own and grades them. Leaves out
writing exports (`app.data_files`).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.graders.parse import parse_grader
from training.graders.spec import GraderSpecError
from training.tasks.jsonl import ProblemFileError
from training.tasks.problem import Problem


def read_exported(path: Path) -> list[Problem]:
    """Read the problems of an export (JSON lines), in the order in which they were first asked.

    Raises:
        ProblemFileError: a line is no exported answer, or its grader does not parse; the message names it.
        OSError: the file cannot be read.

    """
    found: dict[str, Problem] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            problem = problem_of(path, number, line)
            if problem is not None:
                found.setdefault(problem.prompt, problem)
    return list(found.values())


def problem_of(path: Path, number: int, line: str) -> Problem | None:
    """Read one line; None: its question cannot be asked again as one message, or nothing graded its answer."""
    try:
        row = json.loads(line)
        request, grader = row["request"], row["grader"]
    except (ValueError, KeyError, TypeError) as error:
        raise ProblemFileError(path, number, "is no exported answer (lepo data export)") from error
    prompt = question(request)
    if prompt is None or grader is None:
        return None
    try:
        parse_grader(grader)
    except GraderSpecError as error:
        raise ProblemFileError(path, number, str(error)) from error
    return Problem(prompt, str(grader.get("reference", "")), grader, "", 0)


def question(request: Mapping[str, Any]) -> str | None:
    """Return what was asked, if it was one message of a user and nothing else."""
    messages = request.get("messages")
    if not isinstance(messages, list) or len(messages) != 1 or messages[0].get("role") != "user":
        return None
    content = messages[0].get("content")
    if isinstance(content, list):
        content = "\n".join(part.get("text", "") for part in content)
    return content.strip() or None if isinstance(content, str) else None
