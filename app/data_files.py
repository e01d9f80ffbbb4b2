"""Files of exported answers: JSON lines or Parquet, whole under their name or not there.

Written beside the wanted name and renamed at the end. JSON lines that broke off are gone on with after their last whole
line; a Parquet file needs its footer and begins anew. Leaves out where the records come from (`GET /v1/admin/export`).
"""

import base64
import importlib.util
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Protocol, Self

from app.errors import BadRequest

Record = Mapping[str, Any]  # an exported answer
Source = Callable[[str | None], Iterable[Record]]  # gives those behind an answer's id, the oldest first

GROUP: Final = 500  # records of a row group of Parquet

OBJECTS: Final = ("metadata", "request", "usage", "grader", "grades", "learning")  # JSON texts in Parquet
TEXTS: Final = (
    *(
        "id",
        "created_at",
        "completion_id",
        "endpoint",
        "model",
        "checkpoint_id",
        "key",
        "project",
        "user",
        "session_id",
    ),
    *("prompt", "answer", "finish_reason", "grading_state", "unlearnable_reason"),
)
COUNTS: Final = ("choice", "group_size", "policy_version", "turn")


class Writer(Protocol):
    """Takes records."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def write(self, record: Record) -> None:
        """Append a record."""


def export_file(
    source: Source,
    out: Path,
    *,
    form: str,
    after: str | None = None,
    rollouts: bool = False,
    resume: bool = False,
) -> tuple[int, str | None]:
    """Write all that a source gives.

    Args:
        source: of the records.
        out: the file; replaced at the end.
        form: `jsonl` or `parquet`.
        after: begin after the answer of this id.
        rollouts: whether each comes with its rollout.
        resume: go on with the JSON lines that a broken-off export left.

    Returns:
        Answers written now, and the id of the file's last one; None: it holds none.

    Raises:
        OSError: it cannot be written; what was written stays beside it.

    """
    partial = out.with_name(f"{out.name}.partial")
    last: str | None = None
    if resume and partial.is_file():
        last = trim(partial)
        after = last or after
    elif partial.exists():
        partial.unlink()
    count = 0
    writer: Writer = Parquet(partial, rollouts=rollouts) if form == "parquet" else Lines(partial)
    with writer:
        for record in source(after):
            writer.write(record)
            count += 1
            last = record["id"]
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(out)
    return count, last


def trim(partial: Path) -> str | None:
    """Cut a file of JSON lines after its last whole line; returns the id in it."""
    last, end = None, 0
    with partial.open("rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            end += len(line)
            last = line
        file.truncate(end)
    return None if last is None else str(json.loads(last)["id"])


def read_lines(path: Path) -> list[Record]:
    """Read exported JSON lines back."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


class Lines:
    """One JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        self._file = self._path.open("ab")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None, "entered"
        self._file.close()

    def write(self, record: Record) -> None:
        """Append a record."""
        assert self._file is not None, "entered"
        self._file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())


class Parquet:
    """A column a field; what is an object is its JSON, a rollout its bytes. 500 rows a group, zstd."""

    def __init__(self, path: Path, *, rollouts: bool) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = dict.fromkeys((*TEXTS, *OBJECTS), pa.string()) | dict.fromkeys(COUNTS, pa.int64())
        kinds |= {"learnable": pa.bool_(), "reward": pa.float64()}
        if rollouts:
            kinds |= {"rollout_codec": pa.int16(), "rollout": pa.binary()}
        self._schema = pa.schema(list(kinds.items()))
        self._path, self._pa, self._pq = path, pa, pq
        self._writer: Any = None
        self._rows: list[dict[str, Any]] = []

    @staticmethod
    def require() -> None:
        """Refuse early where pyarrow is missing.

        Raises:
            BadRequest: it is.

        """
        if importlib.util.find_spec("pyarrow") is None:
            raise BadRequest("Parquet needs pyarrow: pip install 'lepo-service[data]'")

    def __enter__(self) -> Self:
        self._writer = self._pq.ParquetWriter(self._path, self._schema, compression="zstd")
        return self

    def __exit__(self, *_: object) -> None:
        if self._rows:
            self._flush()
        self._writer.close()

    def write(self, record: Record) -> None:
        """Append a record; a row group is written when it is full."""
        self._rows.append(flat(record))
        if len(self._rows) == GROUP:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(self._pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows.clear()


def flat(record: Record) -> dict[str, Any]:
    """Write a record as a row of plain columns."""
    row = {name: value for name, value in record.items() if name != "rollout"}
    for name in OBJECTS:
        row[name] = None if row[name] is None else json.dumps(row[name], ensure_ascii=False)
    stored = record.get("rollout")
    if stored is not None:
        row |= {"rollout_codec": stored["codec"], "rollout": base64.b64decode(stored["payload"])}
    return row


def unflat(row: Record) -> dict[str, Any]:
    """Read such a row back as the record it was."""
    record = {name: value for name, value in row.items() if name not in {"rollout", "rollout_codec"}}
    for name in OBJECTS:
        record[name] = None if row[name] is None else json.loads(row[name])
    if "rollout" in row:
        coded = row["rollout"]
        record["rollout"] = (
            None if coded is None else {"codec": row["rollout_codec"], "payload": base64.b64encode(coded).decode()}
        )
    return record
