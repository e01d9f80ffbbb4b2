"""How a measurement is shown: one JSON object on the last line of stdout, or a table with each bound beside its figure.

Leaves out measuring.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Bound:
    """What a figure must reach."""

    key: str  # in the report; a dot goes into a mapping: "speedup_ragged.tiny"
    limit: float  # the bound itself
    kind: Literal["at least", "at most"]

    def met(self, value: float) -> bool:
        """Whether a figure keeps the bound; one that is no number does not."""
        if math.isnan(value):
            return False
        return value >= self.limit if self.kind == "at least" else value <= self.limit


def judged(report: Mapping[str, Any], bounds: Sequence[Bound]) -> list[dict[str, Any]]:
    """Every bound whose figure was measured, with the figure and whether it is met."""
    rows = []
    for bound in bounds:
        value = find(report, bound.key)
        if value is not None:
            rows.append({"key": bound.key, bound.kind: bound.limit, "measured": value, "met": bound.met(value)})
    return rows


def find(report: Mapping[str, Any], path: str) -> float | None:
    """Figure at a dotted path, or None; names may hold dots themselves ("0.5b.decode.1.tokens_per_second")."""
    value = report.get(path)
    if isinstance(value, int | float):
        return float(value)
    for cut, sign in enumerate(path):
        inner = report.get(path[:cut]) if sign == "." else None
        if isinstance(inner, Mapping) and (found := find(inner, path[cut + 1 :])) is not None:
            return found
    return None


def finish(report: Mapping[str, Any], *, as_json: bool, out: Path | None = None) -> None:
    """Print a report, and write it to a file too when one is named."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if as_json:
        print(json.dumps(report, allow_nan=False))  # noqa: T201 - the result of a command
    else:
        show(report)


def show(report: Mapping[str, Any]) -> None:
    """Print the figures and the bounds as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    figures = Table("figure", "value", title=str(report["benchmark"]))
    for key, value in flat(report, skip=("benchmark", "bounds", "settings", "machine", "raw")):
        figures.add_row(key, str(value))
    console.print(figures)
    table = Table("bound", "asked", "measured", "met")
    for row in report.get("bounds", ()):
        kind = "at least" if "at least" in row else "at most"
        table.add_row(row["key"], f"{kind} {row[kind]}", str(row["measured"]), "yes" if row["met"] else "NO")
    if table.row_count:
        console.print(table)
    machine = report["machine"]
    if not machine["alone"]:
        console.print(f"The machine was not idle: {machine['busy_cores_before']} cores busy before the start.")


def flat(tree: Mapping[str, Any], skip: Sequence[str] = (), prefix: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as (dotted name, figure)."""
    pairs: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if key in skip and not prefix:
            continue
        if isinstance(value, Mapping):
            pairs += flat(value, prefix=f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs
