"""Nothing grows from update to update, and full fine-tuning takes the bytes a parameter that are planned for it.

In processes of their own, every page counted. The model of 135 million weights takes minutes: `pytest -m slow`.
"""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

MIB = 2**20


def learned(size: str, updates: int, positions: int, failing: str) -> dict[str, Any]:
    """Let a process learn; what it took."""
    command = [sys.executable, "-m", "tests.training.growing_learner", size, str(updates), str(positions), failing]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=7200, check=False)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def test_memory_is_the_same_after_every_update() -> None:
    found = learned("small", 5, 512, "undo")
    first, *later = found["after"]
    assert max(later) - first < 4 * MIB, found
    assert first - found["before"] < 12 * found["parameters"] + 64 * MIB, "weights and moments, and what is made once"


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("failing", "bytes_each"), [("undo", 24), ("drop", 16)])
def test_a_model_of_135_million_weights_takes_what_is_planned_and_no_more_after_ten_updates(
    failing: str, bytes_each: int
) -> None:
    """Micro-batches of one rollout: little but what is held."""
    found = learned("135m", 10, 64, failing)
    parameters = found["parameters"]
    first, *later = found["after"]
    assert max(later) - first < 0.02 * first, found
    assert found["marks"][-1] - found["before"] < bytes_each * parameters + found["activations"], found
