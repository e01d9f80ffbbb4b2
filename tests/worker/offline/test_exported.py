"""`lepo train --data export:FILE`: questions that came with a grader, each once; what cannot be asked again is left."""

from pathlib import Path

import pytest

from app.errors import BadRequest
from app.store.connect import Store
from app.store.interactions import Filters
from tests.app.store.exported import export_file
from tests.conftest import Answers
from worker.offline.sources import read_source

GRADER = {"type": "math", "reference": "2"}


def one(words: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": words}]}


def test_an_export_is_a_source_of_problems(store: Store, answers: Answers, tmp_path: Path) -> None:
    answers(2, body=one("1+1?"), grader=GRADER)
    answers(1, body=one(" 1+1? "), grader=GRADER)
    answers(1, body={"messages": [{"role": "user", "content": [{"type": "text", "text": "2*1?"}]}]}, grader=GRADER)
    answers(1, body=one("and nobody graded it"))
    answers(1, body={"messages": [*one("a")["messages"], {"role": "user", "content": "b"}]}, grader=GRADER)  # type: ignore[misc]
    answers(1, body={"prompt": "1+1="}, grader=GRADER)
    out = tmp_path / "answers.jsonl"
    export_file(store, out, Filters(), form="jsonl")
    found = read_source(f"export:{out}")
    assert [(problem.prompt, problem.answer, problem.grader) for problem in found] == [
        ("1+1?", "2", GRADER),
        ("2*1?", "2", GRADER),
    ]


def test_what_is_no_export_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a"}\n')
    with pytest.raises(BadRequest, match=r"a\.jsonl:1: is no exported answer"):
        read_source(f"export:{path}")
    with pytest.raises(BadRequest, match="no file"):
        read_source(f"export:{tmp_path / 'nothing'}")
