"""Which cells there are, their files, and running those that are not there yet.

A cell's file is named by all that decides its result, so an interrupted bench goes on and a session may run a part.
Leaves out one cell (`cell`) and what the results say (`report`).
"""

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.learning.methods import Method
from benchmarks.learning.real.budget import Budget, Cell, exam_of
from benchmarks.learning.real.families import Family

REVISION: Final = 1  # of the code that decides a cell's result; raise it where results change


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured in all."""

    preset: str  # its name
    base: str
    methods: tuple[Method, ...]
    families: tuple[Family, ...]
    seeds: tuple[int, ...]  # 1 and on
    budget: Budget

    def cells(self) -> list[Cell]:
        """Name every cell in the order they are run: the base's exams, then seed by seed, so that a part is a whole."""
        exams = [exam_of(self.base, method, family, self.budget) for family in self.families for method in self.methods]
        runs = [
            Cell(self.base, method, family, seed, self.budget)
            for seed in self.seeds
            for family in self.families
            for method in self.methods
        ]
        return [*dict.fromkeys(exams), *runs]


class Cache:
    """The files of cells, for one base."""

    def __init__(self, directory: Path, weights: str) -> None:
        """Keep files in a directory; `weights` names the base's weights (`digest_of`)."""
        self._directory, self._weights = directory, weights
        directory.mkdir(parents=True, exist_ok=True)

    def file(self, cell: Cell) -> Path:
        """Name the file of a cell."""
        decides = json.dumps([chosen_of(cell), self._weights, REVISION], sort_keys=True)
        key = hashlib.sha256(decides.encode()).hexdigest()[:12]
        return self._directory / f"{cell.family.name}-{cell.method.name}-{cell.seed}-{key}.json"

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """Tell which cells were never run to their end."""
        return [cell for cell in cells if not self.file(cell).exists()]

    def result(self, cell: Cell) -> dict[str, Any] | None:
        """Read a cell's result; None where it is missing."""
        file = self.file(cell)
        found: dict[str, Any] | None = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        return found


def chosen_of(record: Any) -> dict[str, Any]:
    """Give what a record says beside its defaults: a setting that comes to it later renames no file."""
    found = {}
    for one in fields(record):
        value = getattr(record, one.name)
        if value != one.default:
            found[one.name] = chosen_of(value) if is_dataclass(value) else value
    return found


def digest_of(source: str) -> str:
    """SHA-256 (hex) of a model's weights: of a file, or of the safetensors of a directory."""
    path = Path(source)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    sha = hashlib.sha256()
    for file in files:
        sha.update(file.read_bytes())
    return sha.hexdigest()


def run_all(cells: Sequence[Cell], cache: Cache, processes: int, say: Callable[[str], None]) -> None:
    """Run the cells that are missing, each in a process of its own, so that its memory is given back."""
    waiting = cache.missing(cells)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, max_tasks_per_child=1) as pool:
        running = {pool.submit(work, cell, cache.file(cell)): cell for cell in waiting}
        for number, done in enumerate(as_completed(running), start=1):
            done.result()
            cell = running[done]
            say(f"{number}/{len(waiting)} done: {cell.family.name}, {cell.method.name}, seed {cell.seed}")


def work(cell: Cell, file: Path) -> None:
    """Run a cell and keep its result; a half-written file is never left."""
    from benchmarks.learning.real.cell import run

    log, parent = file.with_suffix(".log"), os.getppid()

    def tell(line: str) -> None:
        if os.getppid() != parent:
            raise SystemExit("the bench was ended: so does this cell, to be run anew")
        with log.open("a", encoding="utf-8") as written:
            written.write(f"{line}\n")

    result = run(cell, tell)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(result), encoding="utf-8")
    partial.replace(file)
    log.unlink(missing_ok=True)
