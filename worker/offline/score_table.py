"""Scores for people and for programs: a table, plain JSON, and a line per problem."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from worker.offline.answers import Mark
from worker.offline.evaluate import Record
from worker.offline.scores import Estimate, Score


def score_table(scores: Sequence[tuple[int, Score]], k: int, title: str) -> Table:
    """Lay out scores, each with the latent length it was answered with."""
    columns = ("latents", "problems", "greedy", f"avg@{k}", f"pass@{k}", "no grade", "failed")
    table = Table(*columns, title=f"{title}: percent right (95% interval)")
    for latent_length, one in scores:
        shares = [_percent(estimate) for estimate in (one.greedy, one.average, one.passed)]
        counts = [f"{count} of {one.answers}" if count else "0" for count in (one.no_grade, one.failed)]
        table.add_row(str(latent_length), f"{one.problems} {one.family}", *shares, *counts)
    return table


def as_json(latent_length: int, one: Score) -> dict[str, Any]:
    """Write a score as plain JSON."""
    return {"latent_length": latent_length, **asdict(one)}


def write_records(path: Path, latent_length: int, records: Sequence[Record]) -> None:
    """Append a line per problem: what was asked, every answer, and what its grader said."""
    with path.open("a", encoding="utf-8") as lines:
        for one in records:
            row = {
                "latent_length": latent_length,
                "prompt": one.problem.prompt,
                "answer": one.problem.answer,
                "family": one.problem.family,
                "greedy": one.greedy and _said(*one.greedy),
                "sampled": [_said(text, mark) for text, mark in one.sampled],
            }
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def _said(text: str, mark: Mark) -> dict[str, Any]:
    return {"text": text, **asdict(mark)}


def _percent(one: Estimate | None) -> str:
    return "-" if one is None else f"{100 * one.value:.1f} ({100 * one.low:.0f}-{100 * one.high:.0f})"
