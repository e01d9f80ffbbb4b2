"""Figures of updates reach TensorBoard's files and MLflow, and are read back with those packages' own readers."""

import math
import socket
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from app.cli import build
from training.tasks.jsonl import write_problems
from training.tasks.problem import Problem
from worker.recorders import EXPERIMENT, Destinations, RecorderUnavailable, scalars

FIGURES = {"kind": "update", "reward": 0.5, "objective": {"loss": 0.25}, "rejected": "words", "checked": None}


@pytest.fixture(autouse=True)
def _file_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


def curves(directory: Path) -> dict[str, list[tuple[int, float]]]:
    read = EventAccumulator(str(directory))
    read.Reload()
    return {tag: [(one.step, one.value) for one in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_numbers_are_recorded_by_kind_and_name_and_words_are_not() -> None:
    assert scalars(FIGURES) == {"update/reward": 0.5, "update/objective/loss": 0.25}


def test_tensorboard_reads_back_what_was_recorded(tmp_path: Path) -> None:
    with Destinations(tensorboard=tmp_path).open("run", 0) as [record]:
        for step in (1, 2):
            record(step, {**FIGURES, "reward": step / 4})
        record(2, {"kind": "validation", "value": 0.75})
    assert curves(tmp_path) == {
        "update/reward": [(1, 0.25), (2, 0.5)],
        "update/objective/loss": [(1, 0.25), (2, 0.25)],
        "validation/value": [(2, 0.75)],
    }


def test_tensorboard_hides_steps_that_were_lost_with_their_process(tmp_path: Path) -> None:
    for done, steps in ((0, (1, 2, 3)), (1, (2,))):
        with Destinations(tensorboard=tmp_path).open("run", done) as [record]:
            for step in steps:
                record(step, {"reward": float(step + 10 * done)})
    assert curves(tmp_path)["update/reward"] == [(1, 1.0), (2, 12.0)]


def test_mlflow_goes_on_with_the_run_of_that_name(tmp_path: Path) -> None:
    uri = (tmp_path / "runs").as_uri()
    for step in (1, 2):
        with Destinations(mlflow=uri).open("one", 0) as [record]:
            record(step, {**FIGURES, "reward": step / 4})
    with Destinations(mlflow=uri).open("other", 0):
        pass
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = {run.info.run_name: run.info.run_id for run in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == {"one", "other"}
    history = client.get_metric_history(runs["one"], "update/reward")
    assert sorted((one.step, one.value) for one in history) == [(1, 0.25), (2, 0.5)]


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(RecorderUnavailable, match=r"pip install 'lepo-service\[mlflow\]'"):
        Destinations(mlflow="file:///x").open("run", 0).__enter__()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(RecorderUnavailable, match=r"pip install 'lepo-service\[tensorboard\]'"):
        Destinations(tensorboard=tmp_path).open("run", 0).__enter__()


def test_an_mlflow_that_takes_nothing_is_an_error_in_words() -> None:
    with pytest.raises(RecorderUnavailable, match="does not take records"):
        Destinations(mlflow="nonsense://x").open("run", 0).__enter__()


def test_a_dead_mlflow_server_is_told_at_once() -> None:
    with socket.socket() as taken:  # bound and not listening: nobody answers there
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(RecorderUnavailable, match="does not answer"):
            Destinations(mlflow=uri).open("run", 0).__enter__()
    assert time.monotonic() - began < 10


def test_lepo_train_records_each_update_and_validation(tmp_path: Path, model_dir: Path) -> None:
    grader = {"type": "string_check", "reference": "a", "operation": "ilike"}
    write_problems(tmp_path / "data.jsonl", [Problem(f"question {i}", "a", grader, "", 0) for i in range(10)])
    asked = f"""train --data {tmp_path}/data.jsonl --model {model_dir} --out {tmp_path}/run --preset small --device cpu
        --updates 2 --every 2 --prompts 2 --group 2 --max-new 4 --latent-length 2 --validation-samples 1
        --tensorboard --mlflow {(tmp_path / "runs").as_uri()}"""
    ran = CliRunner().invoke(build(), asked.split())
    assert ran.exit_code == 0, ran.output
    found = curves(tmp_path / "run" / "tensorboard")
    assert [step for step, _ in found["validation/value"]] == [0, 2]
    assert [step for step, _ in found["update/reward"]] == [1, 2]
    assert all(math.isfinite(value) for points in found.values() for _, value in points)
    client = MlflowClient((tmp_path / "runs").as_uri())
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "run"
    assert run.data.metrics["validation/value"] == pytest.approx(found["validation/value"][-1][1])
