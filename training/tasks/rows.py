"""Rows of a data file, numbered: JSON lines, a JSON list, or Parquet.

Leaves out what the fields mean (see `layouts`). Parquet needs pyarrow, the optional extra `data`.
"""

import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from training.tasks.jsonl import ProblemFileError

SUFFIXES = (".jsonl", ".json", ".parquet")
Row = tuple[int, Mapping[str, Any]]  # its number in the file, from 1, and its fields


def read_rows(path: Path) -> Iterator[Row]:
    """Read the rows of a file one by one.

    Raises:
        ProblemFileError: a row is no object, or the file is not what its name says.
        OSError: the file cannot be read.
        ValueError: its kind is not known, or Parquet cannot be read here.

    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: the name must end in {', '.join(SUFFIXES)}")
    numbered = {".jsonl": _lines, ".json": _list, ".parquet": _parquet}[path.suffix](path)
    for number, row in numbered:
        if not isinstance(row, Mapping):
            raise ProblemFileError(path, number, "must be an object")
        yield number, row


def _lines(path: Path) -> Iterator[tuple[int, object]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise ProblemFileError(path, number, f"is not JSON: {error}") from error


def _list(path: Path) -> Iterator[tuple[int, object]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ProblemFileError(path, error.lineno, f"is not JSON: {error.msg}") from error
    if not isinstance(rows, list):
        raise ProblemFileError(path, 1, "must be a list of objects; name a file of JSON lines .jsonl")
    yield from enumerate(rows, start=1)


def _parquet(path: Path) -> Iterator[tuple[int, object]]:
    if importlib.util.find_spec("pyarrow") is None:
        raise ValueError(f"{path}: Parquet needs pyarrow: pip install 'lepo-service[data]'")
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pyarrow.ArrowInvalid as error:
        raise ProblemFileError(path, 1, f"is not Parquet: {error}") from error
