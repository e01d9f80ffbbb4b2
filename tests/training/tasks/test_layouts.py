"""Known data sets: small files in each one's real layout, and rows that are wrong."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from training.tasks.jsonl import ProblemFileError
from training.tasks.layouts import LAYOUTS, read_dataset, split_files
from training.tasks.problem import Problem

GSM8K = {"question": "How many clips?", "answer": "She sold 48/2 = <<48/2=24>>24 clips.\n#### 1,024"}
MATH500 = {
    "problem": "Convert $(0,3)$ to polar coordinates.",
    "solution": "We have $r = 3$ ...",
    "answer": "\\left( 3, \\frac{\\pi}{2} \\right)",
    "subject": "Precalculus",
    "level": 2,
    "unique_id": "test/precalculus/807.json",
}
AIME = {"id": 60, "problem": "Every morning Aya walks.", "solution": "...", "answer": "025", "year": "2024"}
AIME_CAPITALS = {"ID": "2024-II-4", "Problem": "Let x be.", "Solution": "...", "Answer": 33}
AMC = {"id": 0, "answer": "27.0", "url": "https://example.org", "question": "Cities A and B are 45 miles apart."}
DAPO = {
    "data_source": "math_dapo",
    "prompt": [{"content": "Solve the following.\n\nWhat is 6 * 7?", "role": "user"}],
    "ability": "MATH",
    "reward_model": {"ground_truth": "42", "style": "rule-lighteval/MATH_v2"},
    "extra_info": {"index": "9a9b"},
}


def write(path: Path, rows: list[Any]) -> Path:
    """Write rows as the file's name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize(
    ("name", "row", "prompt", "answer", "difficulty"),
    [
        ("gsm8k", GSM8K, "How many clips?", "1024", 0),
        ("math500", MATH500, MATH500["problem"], MATH500["answer"], 2),
        ("aime24", AIME, "Every morning Aya walks.", "25", 0),
        ("aime24", AIME_CAPITALS, "Let x be.", "33", 0),
        ("aime25", AIME, "Every morning Aya walks.", "25", 0),
        ("amc23", AMC, "Cities A and B are 45 miles apart.", "27.0", 0),
        ("amc23", AMC | {"answer": 27.0}, "Cities A and B are 45 miles apart.", "27", 0),
        ("dapo", DAPO, "Solve the following.\n\nWhat is 6 * 7?", "42", 0),
    ],
)
def test_a_row_as_it_lies_on_the_hub(
    name: str, row: dict[str, Any], prompt: str, answer: str, difficulty: int, suffix: str, tmp_path: Path
) -> None:
    path = write(tmp_path / f"rows{suffix}", [row])
    grader = {"type": "math", "reference": answer}
    assert read_dataset(LAYOUTS[name], path) == [Problem(prompt, answer, grader, name, difficulty)]


def test_a_question_that_comes_again_stays_once(tmp_path: Path) -> None:
    other = DAPO | {"prompt": [{"content": "What is 1 + 1?", "role": "user"}]}
    path = write(tmp_path / "dapo.parquet", [DAPO, other, DAPO, DAPO])
    assert [problem.prompt[-9:] for problem in read_dataset(LAYOUTS["dapo"], path)] == ["is 6 * 7?", "is 1 + 1?"]


@pytest.mark.parametrize(
    ("name", "row", "says"),
    [
        ("gsm8k", {"question": "q"}, "answer is missing; the row has question"),
        ("gsm8k", GSM8K | {"answer": "just 5"}, "answer must end in '#### '"),
        ("gsm8k", GSM8K | {"question": " "}, "question must be a non-empty text"),
        ("math500", MATH500 | {"answer": ""}, "answer must be"),
        ("math500", MATH500 | {"level": "two"}, "level must be a whole number"),
        ("aime24", {"answer": "1"}, "problem or Problem or question is missing"),
        ("aime25", AIME | {"answer": True}, "answer must be"),
        ("dapo", DAPO | {"prompt": [{"role": "system", "content": "s"}]}, "prompt must be"),
        ("dapo", DAPO | {"reward_model": {"style": "rule"}}, "reward_model.ground_truth is missing"),
        ("gsm8k", ["q", "a"], "must be an object"),
    ],
)
def test_a_wrong_row_is_named(name: str, row: Any, says: str, tmp_path: Path) -> None:
    good = {"gsm8k": GSM8K, "math500": MATH500, "aime24": AIME, "aime25": AIME, "dapo": DAPO}[name]
    path = write(tmp_path / "rows.jsonl", [good, row])
    with pytest.raises(ProblemFileError, match=r"rows\.jsonl:2: ") as caught:
        read_dataset(LAYOUTS[name], path)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("rows.jsonl", "{", "rows.jsonl:1: is not JSON"),
        ("rows.json", "{", "is not JSON"),
        ("rows.json", "{}", "must be a list of objects"),
        ("rows.parquet", "no parquet at all", "is not Parquet"),
        ("rows.csv", "a,b", "the name must end in .jsonl, .json, .parquet"),
    ],
)
def test_a_file_that_is_something_else(file: str, content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="rows") as caught:
        read_dataset(LAYOUTS["gsm8k"], tmp_path / file)
    assert says in str(caught.value)


def test_the_files_of_a_split(tmp_path: Path) -> None:
    for name in ("main/train-00000-of-00001.parquet", "main/test-00000-of-00001.parquet", "socratic/test.parquet"):
        write(tmp_path / name, [GSM8K])
    assert split_files(LAYOUTS["gsm8k"], tmp_path, "test") == [tmp_path / "main" / "test-00000-of-00001.parquet"]
    alone = write(tmp_path / "dapo" / "data" / "dapo-math-17k.parquet", [DAPO])
    assert split_files(LAYOUTS["dapo"], tmp_path / "dapo", "train") == [alone]
    assert split_files(LAYOUTS["math500"], tmp_path / "nowhere", "test") == []
