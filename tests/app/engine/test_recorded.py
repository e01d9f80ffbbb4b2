"""Steps by graphs, shown on a CPU: a capture takes no step and asks nothing that CUDA forbids, a replay is a step."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from app.decoder.fused import FusedDecoder
from app.engine import lane as lanes
from app.engine.config import EngineConfig
from app.engine.constraint import Constraint
from app.engine.engine import Engine
from app.engine.graphs import StepGraphs
from app.engine.request import Penalties
from tests.app.engine.recorded import RecordedGraph, emulate
from tests.app.engine.test_reference import assert_same, in_double, mixed_requests
from tests.app.engine.test_swap import Cold, request
from training import one_pass
from training.models.policy import Policy
from training.sample import sample

WORD = Constraint("regex", "(yes|no)")


@pytest.fixture(autouse=True)
def _graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines step by recorded graphs, and draw by parts, as on a GPU."""
    emulate(monkeypatch)
    monkeypatch.setattr(one_pass, "fits", lambda _logits: False)


def graphs_of(engine: Engine) -> StepGraphs:
    graphs = engine._lanes.serving._graphs
    assert graphs is not None
    assert graphs.captures
    return graphs


@pytest.mark.parametrize("family", ["qwen2", "qwen2_mixed", "gemma3"])
def test_replays_answer_as_the_reference_does(policies: Mapping[str, Policy], family: str) -> None:
    policy = in_double(policies[family])
    requests = mixed_requests(9)
    engine = Engine(policy, EngineConfig(slots=5, max_length=128, prefill_chunk=16))
    for asked, (finished,) in zip(requests, engine.generate(requests), strict=True):
        assert_same(finished.rollout, sample(policy, asked.prompt_ids, asked.sampling, asked.max_new), 1e-5)
    graphs = [captured.graph for captured in graphs_of(engine)._graphs.values()]
    assert all(isinstance(graph, RecordedGraph) and graph.replays for graph in graphs)
    assert sum(graph.replays for graph in graphs if isinstance(graph, RecordedGraph)) > 2 * len(graphs)


def test_constrained_rows_are_replayed_too_and_leave_the_others_alone(policies: Mapping[str, Policy]) -> None:
    """Masks change from step to step, the graph stays: it reads them where the host wrote them."""
    policy = in_double(policies["qwen2"])
    free, word = request(1, max_new=12), replace(request(2, max_new=12), ignore_eos=False, constraint=WORD)
    engine = Engine(policy, EngineConfig(slots=5, max_length=128, prefill_chunk=16))
    [[ours], [said], [again]] = engine.generate([free, word, replace(word, sampling=replace(word.sampling, seed=9))])
    assert_same(ours.rollout, sample(policy, free.prompt_ids, free.sampling, free.max_new), 1e-5)
    assert {said.text, again.text} <= {"yes", "no"}
    masked = [bucket for bucket in graphs_of(engine)._graphs if bucket.masked]
    assert masked
    assert len(said.rollout.masks_MQ) + len(again.rollout.masks_MQ) > len(masked)


def test_rows_that_bend_their_logits_are_replayed_too(policies: Mapping[str, Policy]) -> None:
    """E11: one such row took the whole batch out of its graph."""
    policy = in_double(policies["qwen2"])
    free = request(1, max_new=30)
    bent = [
        replace(request(2, max_new=30), logit_bias={5: 50.0, 7: -50.0}),
        replace(request(3, max_new=30), ignore_eos=False, min_tokens=20),
        replace(request(4, max_new=30), penalties=Penalties(repetition=1.3, frequency=0.5)),
    ]
    asked = [free, *bent, *(replace(one, sampling=replace(one.sampling, seed=50)) for one in bent)]
    config = EngineConfig(slots=5, max_length=128, prefill_chunk=16)
    engine, plain = Engine(policy, config), Engine(policy, config)
    plain._lanes.serving._graphs = None
    for [ours], [theirs] in zip(engine.generate(asked), plain.generate(asked), strict=True):
        assert ours.rollout.token_ids_T.tolist() == theirs.rollout.token_ids_T.tolist()
        torch.testing.assert_close(ours.rollout.token_logprobs_T, theirs.rollout.token_logprobs_T, rtol=0, atol=1e-5)
    graphs = graphs_of(engine)._graphs
    sizes = {bucket.bent for bucket in graphs if bucket.bent is not None}
    assert any(factors for _, factors in sizes)
    assert any(not factors for _, factors in sizes)
    replayed = sum(cast("RecordedGraph", graphs[bucket].graph).replays for bucket in graphs if bucket.bent is not None)
    assert replayed > 2 * len(sizes), "the same tensors serve many steps"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_forward_for_a_gpu_can_be_captured(cold: Cold, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(lanes, "can_fuse", lambda _model: True)
    policy = cold(3)
    for parameter in policy.model.parameters():
        parameter.data = parameter.data.to(dtype)
    engine = Engine(policy, EngineConfig(slots=5, max_length=128, prefill_chunk=16))
    assert isinstance(engine._lanes.serving._view, FusedDecoder)
    engine.generate(mixed_requests(5, most_latents=2))
    assert graphs_of(engine).captured > 3


def test_replays_read_weights_that_a_swap_wrote(
    cold: Cold, checkpoints: Mapping[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "can_fuse", lambda _model: True)
    config = EngineConfig(slots=2, max_length=128, swap_mode="in_place")
    warm, fresh = Engine(cold(3), config), Engine(cold(4), config)
    asked = [request(seed) for seed in range(3)]
    warm.generate(asked)
    captured = graphs_of(warm).captured
    done = warm.swap(checkpoints[4], 4)
    while not done.done():
        warm._turn()
    for one, other in zip(warm.generate(asked), fresh.generate(asked), strict=True):
        assert_same(one[0].rollout, other[0].rollout, 1e-5)
    assert graphs_of(warm).captured == captured, "a swap needs no new capture"


@pytest.mark.parametrize("asking", [lambda x: x.sum().item(), lambda x: x.nonzero(), lambda _x: torch.tensor([1.0])])
def test_what_a_capture_forbids_is_refused(asking: Any) -> None:
    graph = RecordedGraph()
    numbers: Tensor = torch.ones(3)
    with pytest.raises(RuntimeError, match="capturing"), graph.recorder:
        asking(numbers)


def test_a_capture_takes_no_step() -> None:
    graph, numbers = RecordedGraph(), torch.ones(3)
    with torch.cuda.graph(graph):  # type: ignore[arg-type]
        numbers.add_(1)
    assert numbers.tolist() == [1, 1, 1]
    graph.replay()
    graph.replay()
    assert numbers.tolist() == [3, 3, 3]
