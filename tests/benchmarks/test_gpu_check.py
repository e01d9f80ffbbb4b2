"""`scripts/gpu_check.sh` runs from anywhere, on a machine without a GPU, with torch and transformers alone."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.runner import Check, Note, Section

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_check.sh"
ALLOWED = (
    "torch",
    "transformers",
    "safetensors",
    "tokenizers",
    "numpy",
    "huggingface_hub",
)  # the last three come with transformers
OURS = ("app", "benchmarks", "training", "worker")
GUARD = f"""
import builtins, sys
original = builtins.__import__

def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    mine = str((globals or {{}}).get("__name__", "")).split(".")[0]
    mine = "benchmarks" if mine == "__main__" and (globals or {{}}).get("__package__") == "benchmarks.gpu" else mine
    top = name.split(".")[0]
    if level == 0 and mine in {OURS!r} and top not in {(*ALLOWED, *OURS)!r} and top not in sys.stdlib_module_names:
        raise ImportError(f"{{top}} is imported by {{globals['__name__']}}, but not installed on a GPU machine")
    return original(name, globals, locals, fromlist, level)

builtins.__import__ = guarded
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script with a guard in every Python process: our own modules import what is allowed, nothing else."""
    (folder / "guard").mkdir()
    (folder / "guard" / "sitecustomize.py").write_text(GUARD)
    env = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder / "guard")}
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def figures(tree: Any) -> list[float]:
    if isinstance(tree, dict):
        return [figure for value in tree.values() for figure in figures(value)]
    return [float(tree)] if isinstance(tree, int | float) else []


@pytest.mark.timeout(600)
def test_the_cpu_mode_checks_everything_with_the_packages_named_alone(tmp_path: Path) -> None:
    ran = run(tmp_path, "--cpu", "--out", str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    report = json.loads((tmp_path / "cpu.json").read_text())
    assert {one["status"] for one in report["sections"].values()} == {"passed"}
    checks = report["checks"]
    assert set(checks) >= {
        "numbers",
        "answers in float32",
        "answers in bfloat16",
        "answers in float64",
        "swaps",
        "updates",
    }
    assert all(check["passed"] for section in checks.values() for check in section.values())
    micro = report["figures"]["micro"]
    assert set(micro["decode"]) == {"1", "4"}
    for rate in micro["decode"].values():
        assert rate["tokens_per_second"] == pytest.approx(
            rate["fraction_of_roofline"] * rate["roofline_tokens_per_second"], rel=2e-3
        )
    assert set(micro) >= {"latent_step_over_token_step", "swap", "update", "first_tokens", "split"}
    assert all(math.isfinite(figure) for figure in figures(report["figures"]))
    assert report["figures"]["copy_bandwidth_gb_s"] > 0
    assert report["figures"]["machine"]["processor"]


def test_the_guard_refuses_what_a_gpu_machine_lacks(tmp_path: Path) -> None:
    run(tmp_path, "--help")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path / 'guard'}:{SCRIPT.parents[1]}"}
    refused = subprocess.run(
        [sys.executable, "-c", "import app.settings"], env=env, capture_output=True, text=True, check=False
    )
    assert refused.returncode
    assert "not installed on a GPU machine" in refused.stderr


def test_an_unknown_option_says_what_there_is(tmp_path: Path) -> None:
    ran = run(tmp_path, "--gpu")
    assert ran.returncode == 2
    assert "--cpu" in ran.stderr


def raises(note: Note) -> None:
    note.put("made", "before", value=1.5)
    note.check("a wrong figure", lambda: (False, {"gap": float("nan")}))
    note.check("one that breaks", lambda: (True, {"gap": 1 / 0}))
    note.check("a right one", lambda: (True, {}))
    raise RuntimeError("this section is broken")


def dies(_note: Note) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_section_that_breaks_costs_itself_alone(tmp_path: Path) -> None:
    check = Check(tmp_path / "report.json", {}, 60.0)
    sections = [
        Section("broken", 1.0, raises),
        Section("dead", 1.0, dies),
        Section("dear", 1e6, raises),
        Section("sound", 1.0, lambda note: note.put("made", "after", value=2)),
    ]
    assert not check.run(sections)
    report = json.loads((tmp_path / "report.json").read_text())
    status = {name: section["status"] for name, section in report["sections"].items()}
    assert status == {"broken": "failed", "dead": "died", "dear": "skipped", "sound": "passed"}
    assert "this section is broken" in report["sections"]["broken"]["traceback"]
    assert report["sections"]["broken"]["failed"] == ["a wrong figure", "one that breaks"]
    assert report["checks"]["broken"]["a wrong figure"] == {"passed": False, "gap": "nan"}
    assert "ZeroDivisionError" in report["checks"]["broken"]["one that breaks"]["traceback"]
    assert report["checks"]["broken"]["a right one"]["passed"]
    assert report["figures"]["made"] == {"before": 1.5, "after": 2}


def test_a_section_that_hangs_is_ended_and_shows_where_it_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.gpu.runner._GRACE_S", 0.5)

    def waits_for_ever(note: Note) -> None:
        note.put("made", value=1)
        import threading

        threading.Event().wait()

    check = Check(tmp_path / "report.json", {}, 60.0)
    assert not check.run([Section("stuck", 0.1, waits_for_ever), Section("next", 1.0, lambda _note: None)])
    assert [one["status"] for one in check.report["sections"].values()] == ["hung", "passed"]
    assert check.report["figures"] == {"made": 1}
    assert "waits_for_ever" in capfd.readouterr().err
