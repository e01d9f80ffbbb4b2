"""Known data sets as they lie on the hub: which fields hold the question and the answer of a row.

Every answer is graded by `math` with the row's own reference. Errors name the file, the row and the field; a question
that comes again is left out (DAPO-Math-17k holds each about a hundred times), one that comes again with another answer
too, since nobody can say which is right: the first stays. Leaves out how files get here (`worker.offline.sources`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from training.tasks.jsonl import ProblemFileError
from training.tasks.problem import Problem
from training.tasks.rows import read_rows

_GSM8K_ANSWER = re.compile(r"####\s*(\S.*?)\s*$")


@dataclass(frozen=True, slots=True)
class Layout:
    """How one data set writes its rows."""

    name: str  # as callers write it
    repository: str  # on the hub
    splits: tuple[str, ...]  # those it has, as its files are named
    prompt: tuple[str, ...]  # fields that may hold the question: the first that is there does
    answer: tuple[str, ...]  # likewise; a dot goes into an object
    level: str = ""  # field of the difficulty, a whole number; "" for none
    folder: str = ""  # of the wanted files in the repository; "" for anywhere


_ALL = (
    Layout("gsm8k", "openai/gsm8k", ("train", "test"), ("question",), ("answer",), folder="main"),
    Layout("math500", "HuggingFaceH4/MATH-500", ("test",), ("problem",), ("answer",), level="level"),
    Layout("aime24", "HuggingFaceH4/aime_2024", ("train",), ("problem", "Problem", "question"), ("answer", "Answer")),
    Layout("aime25", "math-ai/aime25", ("test",), ("problem", "Problem", "question"), ("answer", "Answer")),
    Layout("amc23", "math-ai/amc23", ("test",), ("question", "problem"), ("answer",)),
    Layout("dapo", "BytedTsinghua-SIA/DAPO-Math-17k", ("train",), ("prompt",), ("reward_model.ground_truth",)),
)
LAYOUTS: Mapping[str, Layout] = MappingProxyType({layout.name: layout for layout in _ALL})


def read_dataset(layout: Layout, path: Path) -> list[Problem]:
    """Read the problems of a file in a known layout, each question once, in the file's order.

    Raises:
        ProblemFileError: a row is malformed; the message names file, row and field.
        OSError: the file cannot be read.
        ValueError: the file is of an unknown kind.

    """
    found: dict[str, Problem] = {}
    for number, row in read_rows(path):
        problem = _problem(layout, path, number, row)
        found.setdefault(problem.prompt, problem)
    return list(found.values())


def split_files(layout: Layout, directory: Path, split: str) -> list[Path]:
    """Find the files of a split in a directory that looks like the repository; empty when there are none."""
    root = directory / layout.folder if (directory / layout.folder).is_dir() else directory
    files = sorted(path for path in root.rglob("*") if path.suffix in {".parquet", ".jsonl"})
    named = [path for path in files if path.name.startswith(split)]
    return named or (files if len(files) == 1 and len(layout.splits) == 1 else [])


def _problem(layout: Layout, path: Path, number: int, row: Mapping[str, Any]) -> Problem:
    prompt_field, said = _first(layout.prompt, row, path, number)
    answer_field, given = _first(layout.answer, row, path, number)
    prompt, answer = _question(said), _answer(given)
    if prompt is None:
        raise ProblemFileError(path, number, f"{prompt_field} must be a non-empty text, or messages with one of a user")
    if answer is not None and layout.name == "gsm8k":
        marked = _GSM8K_ANSWER.search(answer)
        answer = marked[1].replace(",", "") if marked else None
    if answer is None:
        wanted = "end in '#### ' and a number" if layout.name == "gsm8k" else "be a non-empty text or a number"
        raise ProblemFileError(path, number, f"{answer_field} must {wanted}")
    grader = {"type": "math", "reference": answer}
    return Problem(prompt, answer, grader, layout.name, _level(layout, path, number, row))


def _first(fields: tuple[str, ...], row: Mapping[str, Any], path: Path, number: int) -> tuple[str, object]:
    """Return the first field that is there, and its value."""
    for field in fields:
        value: object = row
        for part in field.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            return field, value
    raise ProblemFileError(path, number, f"{' or '.join(fields)} is missing; the row has {', '.join(map(str, row))}")


def _question(value: object) -> str | None:
    """Return a text, or what the user says last in a list of messages."""
    if isinstance(value, list):
        said = [message.get("content") for message in value if isinstance(message, Mapping) and _by_user(message)]
        value = said[-1] if said else None
    return value.strip() if isinstance(value, str) and value.strip() else None


def _by_user(message: Mapping[str, Any]) -> bool:
    return message.get("role") == "user"


def _answer(value: object) -> str | None:
    """Return a number as people write it (25, not 25.0 or 025), or a text as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    text = str(value).strip()
    return (str(int(text)) if re.fullmatch(r"[0-9]+", text) else text) or None


def _level(layout: Layout, path: Path, number: int, row: Mapping[str, Any]) -> int:
    level = row.get(layout.level, 0) if layout.level else 0
    if isinstance(level, bool) or not isinstance(level, int) or level < 0:
        raise ProblemFileError(path, number, f"{layout.level} must be a whole number, 0 or more")
    return level
