"""`lepo bench learning` on a real model, as it is called."""

import json
from pathlib import Path

from click.testing import CliRunner, Result

from benchmarks.learning.command import command


def call(*words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words])


def test_the_page_tells_the_real_model_first_and_the_committed_small_base_behind(base: Path, tmp_path: Path) -> None:
    asked = ("--base", base, "--preset", "real", "--no-run", "--cache", tmp_path / "cells")
    called = call(*asked, "--json", "--out", tmp_path / "out.json", "--write-docs", tmp_path / "learning.md")
    assert called.exit_code == 0, called.output
    report = json.loads(called.output.splitlines()[-1])
    assert report == json.loads((tmp_path / "out.json").read_text())
    assert len(report["missing"]) == report["cells"] > 30
    page = (tmp_path / "learning.md").read_text()
    assert 0 < page.index(f"## A real model: {base}") < page.index("## The small base")
    assert (tmp_path / "pictures" / "learning-real.png").exists()
    assert not (tmp_path / "pictures" / "learning.png").exists()


def test_what_does_not_go_together_is_refused() -> None:
    for words, said in {
        ("--preset", "real"): "--base bench goes with --preset quick or full",
        ("--base", "smollm2"): "--base smollm2 goes with --preset real",
        ("--seeds", "1"): "choose cells of a real model",
        ("--no-run",): "choose cells of a real model",
    }.items():
        called = call(*words)
        assert called.exit_code == 2
        assert said in called.output
