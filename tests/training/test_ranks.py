"""Two processes learn what one does: same loss, same norm, same weights, same state; and what they agree on."""

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from training.distributed.ranks import ALONE, Ranks
from training.objective import ObjectiveConfig
from training.optimization.health import HealthConfig
from training.optimization.optimizer import OptimizerConfig
from training.update import UpdateConfig

ADVANTAGES = [1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 0.3]
UPDATES = 2


def config_of(checkpointing: bool) -> UpdateConfig:
    return UpdateConfig(
        # an epsilon-sized gradient is magnified by Adam: the first step is a sign
        optimizer=OptimizerConfig(learning_rate=1e-3, max_grad_norm=0.5),
        objective=ObjectiveConfig(beta=0.1, normalization="bnpo"),
        health=HealthConfig(max_kl=math.inf, explosion_norm=math.inf),
        micro_batch_positions=30,  # an odd number of micro-batches: one process has nothing of its own in the last
        activation_checkpointing=checkpointing,
    )


def run_together(size: int, *arguments: str) -> None:
    """Run the script in `size` processes that join, and wait."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(size):
        env = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.training.ranked_learner", *arguments],
                env=os.environ | {name: str(value) for name, value in env.items()},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    for process in processes:
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said


@pytest.mark.parametrize(
    ("model", "dtype", "kind", "checkpointing", "tolerance"),
    [
        ("llama", "float32", "sharded", "1", 1e-5),
        (
            "qwen2",
            "float32",
            "sharded",
            "0",
            1e-3,
        ),  # biases of keys have no gradient but rounding, which Adam magnifies
        ("qwen3", "bfloat16", "sharded", "0", 2e-2),
        ("qwen2", "float32", "adapters", "0", 1e-5),
    ],
)
def test_two_processes_learn_what_one_does(
    model: str, dtype: str, kind: str, checkpointing: str, tolerance: float, tmp_path: Path
) -> None:
    arguments = model, dtype, kind, checkpointing, str(tmp_path)
    run_together(2, *arguments)
    run_together(1, *arguments, "alone")
    (alone, alone_told), (first, first_told), (second, second_told) = (
        (load_file(tmp_path / f"{kind}-{name}.safetensors"), json.loads((tmp_path / f"{kind}-{name}.json").read_text()))
        for name in ("1-0", "2-0", "2-1")
    )
    assert first_told == second_told
    assert first.keys() == second.keys() == alone.keys()
    assert all(torch.equal(one, second[name]) for name, one in first.items())
    for ours, theirs in zip(first_told, alone_told, strict=True):
        assert ours["micro_batches"] == theirs["micro_batches"] == 3
        assert ours["objective"] == pytest.approx(theirs["objective"], rel=tolerance, abs=tolerance)
        for name in ("loss", "gradient_norm", "kl", "entropy_after"):
            assert ours[name] == pytest.approx(theirs[name], rel=tolerance, abs=1e-4), name
        assert theirs["gradient_norm"] > 0.5, "the clip is at work"
        if kind == "sharded":
            assert ours["held"] < 0.8 * theirs["held"]
    for kept in ("weights.", "exp_avg."):
        assert distance(first, alone, kept) < tolerance


def distance(ours: dict[str, Tensor], theirs: dict[str, Tensor], prefix: str) -> float:
    """Root mean square difference as a share of the root mean square."""
    names = [name for name in theirs if name.startswith(prefix)]
    assert names
    apart = sum(float((ours[name].double() - theirs[name].double()).square().sum()) for name in names)
    return math.sqrt(apart / sum(float(theirs[name].double().square().sum()) for name in names))


def test_alone_is_the_identity() -> None:
    tensor = torch.tensor([1.0, 2.0])
    assert ALONE.leads
    assert (ALONE.gathered("a"), ALONE.first("a"), ALONE.agreed(True), ALONE.agreed(False)) == (["a"], "a", True, False)
    assert ALONE.total(tensor) is tensor
    ALONE.average(tensor)
    assert tensor.tolist() == [1.0, 2.0]
    assert (list(range(5))[ALONE.span(5)], ALONE.dealt([1, 2])) == ([0, 1, 2, 3, 4], [1, 2])


def test_shares_are_even_and_cover_all() -> None:
    ranks = [Ranks(rank, 3) for rank in range(3)]
    things = list(range(7))
    spans = [things[one.span(7)] for one in ranks]
    assert [thing for one in spans for thing in one] == things
    assert [len(one) for one in spans] == [2, 2, 3]
    assert [one.dealt(things) for one in ranks] == [[0, 3, 6], [1, 4, None], [2, 5, None]]
    assert [one.dealt([]) for one in ranks] == [[], [], []]
    assert [one.span(1) for one in ranks].count(slice(0, 1)) == 1
