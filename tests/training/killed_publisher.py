"""A process whose children publish a checkpoint and are killed with SIGKILL at one chosen moment each.

Run as `python -m tests.training.killed_publisher MODEL_DIR ROOT`. The moments are the file operations on the checkpoint
that Python reports to an audit hook (every open, every rename): child k dies just before its k-th one, in a parent
directory `ROOT/k` of its own, until a child lives to the end. Prints the number of moments.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from training.models.checkpoint import publish
from training.models.policy import Policy, load_policy


def main(model_dir: Path, root: Path) -> int:
    """Kill one child per moment; returns how many moments there are."""
    policy = load_policy(model_dir, version=3, dtype=torch.float32, device="cpu")
    moment = 0
    while killed(policy, root / str(moment), moment):
        moment += 1
    return moment


def killed(policy: Policy, parent_dir: Path, moment: int) -> bool:
    """Publish in a child that dies at `moment`; whether it did."""
    child = os.fork()
    if child == 0:
        sys.addaudithook(Assassin(parent_dir, moment))
        publish(policy, parent_dir, version=4, parent_version=3, training={}, created="2026-01-01T00:00:00Z")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0, "the child that was not killed must have published"
    return False


class Assassin:
    """Audit hook that kills its own process before the n-th file operation under a directory."""

    def __init__(self, directory: Path, moment: int) -> None:
        self.directory, self.left = str(directory), moment

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in {"open", "os.rename"} or not str(arguments[0]).startswith(self.directory):
            return
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), Path(sys.argv[2])))  # noqa: T201
