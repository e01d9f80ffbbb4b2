"""What CUDA graphs change about a step can be shown without a GPU: batches padded to buckets, and lengths doubled.

`Eager` runs what a capture would record, padding rows included; answers must be the reference's all the same. That a
capture replays what it recorded is CUDA's promise, and is checked where there is a GPU (`scripts/gpu_check.sh`).
"""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from app.decoder.length import Lengths
from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.engine.graphs import Bucket, Captured, StepGraphs
from app.engine.request import Request
from app.engine.rows import POSITION
from tests.app.engine.test_reference import assert_same, in_double, mixed_requests
from training.models.policy import Policy
from training.sample import sample
from training.sampling import Sampling


class Eager(StepGraphs):
    """Buckets without graphs."""

    padded = 0

    def run(self, bucket: Bucket) -> tuple[Tensor, Tensor]:
        in_use = int((self._rows.at_3R1[POSITION] > 0).sum())
        self.padded += bucket.rows > in_use
        return self.eager(bucket)


def test_rows_that_pad_a_batch_harm_nobody(policy: Policy) -> None:
    policy = in_double(policy)
    engine = Engine(policy, EngineConfig(slots=11, max_length=128, prefill_chunk=16))
    lane = engine._lanes.serving
    lane._graphs = eager = Eager(lane.rows)
    lane._lengths = Lengths(128, graphed=True)
    requests = [request for request in mixed_requests(24) if len(request.prompt_ids) > 1]
    answers = engine.generate(requests)
    assert eager.padded > 10
    for request, (finished,) in zip(requests, answers, strict=True):
        assert_same(finished.rollout, sample(policy, request.prompt_ids, request.sampling, request.max_new), 1e-5)
    engine._turn()  # closes the last hole
    assert not lane.rows.at_3R1[POSITION].any()


class Refusing(StepGraphs):
    """Graphs of a model that cannot be captured: it fails in the middle, after a warm-up has moved the rows."""

    asked = 0

    def capture(self, bucket: Bucket, before: Sequence[Tensor]) -> Captured:
        self.asked += 1
        self.eager(bucket)
        raise RuntimeError("operation not permitted when stream is capturing")


def test_a_failed_capture_falls_back_to_single_operations(policy: Policy, caplog: pytest.LogCaptureFixture) -> None:
    policy = in_double(policy)
    engine = Engine(policy, EngineConfig(slots=3, max_length=128, prefill_chunk=16))
    lane = engine._lanes.serving
    lane._graphs = refusing = Refusing(lane.rows)
    requests = mixed_requests(6)
    answers = engine.generate(requests)
    for request, (finished,) in zip(requests, answers, strict=True):
        assert_same(finished.rollout, sample(policy, request.prompt_ids, request.sampling, request.max_new), 1e-5)
    assert (refusing.asked, refusing.captures) == (1, False)  # tried once, and no step taken twice
    (record,) = [record for record in caplog.records if record.name == "app.engine.graphs"]
    assert record.levelname == "WARNING"
    assert "not permitted when stream is capturing" in record.getMessage()


class Short(StepGraphs):
    """Graphs for which there is no memory at first."""

    asked = 0

    def capture(self, bucket: Bucket, before: Sequence[Tensor]) -> Captured:
        self.asked += 1
        self.eager(bucket)
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_where_memory_is_short_for_a_graph_it_is_tried_again_later(
    policy: Policy, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.engine.graphs._PAUSE", 5)
    policy = in_double(policy)
    engine = Engine(policy, EngineConfig(slots=1, max_length=128))
    lane = engine._lanes.serving
    lane._graphs = short = Short(lane.rows)
    asked = Request((4, 5, 6), Sampling(seed=1), max_new=24, ignore_eos=True)
    [[finished]] = engine.generate([asked])
    assert_same(finished.rollout, sample(policy, (4, 5, 6), Sampling(seed=1), 24, ignore_eos=True), 1e-5)
    assert short.captures
    assert short.asked == 3 + 2, "of 14 and of 10 steps, each sixth"
    assert "tried again later" in caplog.text


@pytest.mark.parametrize(
    ("needed", "cpu", "gpu"), [(1, 16, 128), (32, 32, 128), (33, 48, 128), (129, 144, 256), (700, 704, 704)]
)
def test_lengths_are_rounded_up_and_bounded(needed: int, cpu: int, gpu: int) -> None:
    assert Lengths(700, graphed=False).bucket(needed) == cpu
    assert Lengths(700, graphed=True).bucket(needed) == gpu


@pytest.mark.parametrize(("rows", "bucket"), [(1, 1), (2, 2), (3, 4), (7, 8), (9, 11), (11, 11)])
def test_batches_are_rounded_up_and_bounded(policy: Policy, rows: int, bucket: int) -> None:
    engine = Engine(policy, EngineConfig(slots=11, max_length=128))
    assert StepGraphs(engine._lanes.serving.rows)._rounded(rows) == bucket
