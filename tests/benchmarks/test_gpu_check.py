"""`scripts/gpu_check.sh` runs from anywhere, on a machine without a GPU, and writes its figures."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_check.sh"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHON": sys.executable, "RESULTS": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def figures(tree: Any) -> list[float]:
    if isinstance(tree, dict):
        return [figure for value in tree.values() for figure in figures(value)]
    return [float(tree)] if isinstance(tree, int | float) else []


def test_the_cpu_mode_measures_everything(tmp_path: Path) -> None:
    ran = run(tmp_path, "--cpu")
    assert ran.returncode == 0, ran.stderr
    report = json.loads((tmp_path / "cpu.json").read_text())
    assert report == json.loads(ran.stdout.splitlines()[-1])
    micro = report["micro"]
    assert set(micro["decode"]) == {"1", "4"}
    for rate in micro["decode"].values():
        assert rate["tokens_per_second"] == approximately(
            rate["fraction_of_roofline"] * rate["roofline_tokens_per_second"]
        )
    assert set(micro) >= {"latent_step_over_token_step", "swap", "update"}
    assert all(math.isfinite(figure) and figure >= 0 for figure in figures(micro))
    assert report["copy_bandwidth_gb_s"] > 0


def test_an_unknown_option_says_what_there_is(tmp_path: Path) -> None:
    ran = run(tmp_path, "--gpu")
    assert ran.returncode == 2
    assert "--cpu" in ran.stderr


def approximately(value: float) -> Any:
    import pytest

    return pytest.approx(value, rel=2e-3)
