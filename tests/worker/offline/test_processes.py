"""`lepo train --processes 2`: what one process learns, stopped by one signal, gone on with, and ended as a whole."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from training.models.checkpoint import load_tensors, load_training_state, verify

from .test_train import arguments, data, finish, metrics, start, wait_for

__all__ = ["data"]  # the fixture
TWO = ("--processes", "2")


def children(process: "subprocess.Popen[str]") -> list[int]:
    """Ids of the processes that a process started, the resource tracker of multiprocessing left out."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(one) for one in listed if "spawn_main" in Path(f"/proc/{one}/cmdline").read_text()]


def gone(pids: list[int]) -> bool:
    """Wait until none of the processes is left."""
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_two_stopped_and_resumed_learn_what_one_does(data: Path, model_dir: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    plan = ("--updates", "8", "--every", "3", "--micro-batch-positions", "64", "--activation-checkpointing")
    finish(start(*arguments(data, model_dir, one, *plan)))
    process = start(*arguments(data, model_dir, two, *plan, *TWO))
    wait_for(two, 2, process)
    os.kill(children(process)[1], signal.SIGINT)  # not the leading one, and it alone
    output = finish(process, 130)
    assert f"stopped; go on with: lepo train --resume --out {two}" in output
    newest = verify(max((two / "checkpoints").glob("v*"))).version
    assert 2 <= newest < 8
    finish(start("train", "--resume", "--out", str(two), "--device", "cpu", "--threads", "1", *TWO))
    for ours, theirs in zip(metrics(two), metrics(one), strict=True):
        for name in ("kind", "reward", "value", "micro_batches"):
            assert ours.get(name) == theirs.get(name)
        for name in ("loss", "gradient_norm", "kl"):
            assert ours.get(name, 0.0) == pytest.approx(theirs.get(name, 0.0), rel=1e-2, abs=1e-5)
    for load in (load_tensors, load_training_state):
        left, right = load(one / "checkpoints" / "v00000008"), load(two / "checkpoints" / "v00000008")
        assert left.keys() == right.keys()
        for name, tensor in left.items():
            apart = (tensor.double() - right[name].double()).norm() / tensor.double().norm().clamp(min=1e-6)
            assert apart < 1e-2, name
    assert any(row.get("micro_batches", 0) > 1 for row in metrics(one))
    assert torch.isfinite(left["exp_avg.model.norm.weight"]).all()


def test_ctrl_c_stops_all_with_a_checkpoint(data: Path, model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(*arguments(data, model_dir, out, "--updates", "500", "--every", "500", *TWO))
    wait_for(out, 1, process)
    both = children(process)
    process.send_signal(signal.SIGINT)
    output = finish(process, 130)
    assert output.count("stopping with a checkpoint") == 1
    assert f"stopped; go on with: lepo train --resume --out {out}" in output
    assert verify(max((out / "checkpoints").glob("v*"))).version == metrics(out)[-1]["step"]
    assert gone(both)


def test_a_process_that_dies_ends_the_run(data: Path, model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(*arguments(data, model_dir, out, "--updates", "500", "--every", "500", *TWO))
    wait_for(out, 1, process)
    both = children(process)
    assert len(both) == 2
    os.kill(both[1], signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode not in {0, 130}
    assert gone(both)


def test_none_is_left_when_the_one_that_started_them_is_killed(data: Path, model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(*arguments(data, model_dir, out, "--updates", "500", "--every", "500", *TWO))
    wait_for(out, 1, process)
    both = children(process)
    process.kill()
    assert gone(both)
    process.communicate(timeout=20)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--data", "nowhere.jsonl"], "no file at 'nowhere.jsonl'"),
        (["--device", "cuda:1"], "several processes cannot share cuda:1"),
    ],
)
def test_a_mistake_is_told_once(more: list[str], says: str, data: Path, model_dir: Path, tmp_path: Path) -> None:
    output = finish(start(*arguments(data, model_dir, tmp_path / "run", *more, *TWO)), 1)
    assert output.count(says) == 1, output
    assert "Traceback" not in output
    assert not (tmp_path / "run").exists()


def test_a_directory_in_use_ends_all(data: Path, model_dir: Path, tmp_path: Path) -> None:
    output = finish(start(*arguments(data, model_dir, tmp_path, *TWO)), 1)
    assert " ".join(output.split()).count("is not empty: give another --out") == 1
    assert "Traceback" not in output


def test_processes_started_elsewhere_are_counted(
    data: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    output = finish(start(*arguments(data, model_dir, tmp_path / "run", *TWO)), 2)
    assert "3 processes were started already: leave --processes out" in " ".join(output.split())
