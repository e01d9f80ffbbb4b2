"""The forward written out for a GPU: the stock model's logits, from parameters that stay where a swap writes them.

Its operations run on a CPU too, so the arithmetic is tested here; what only a GPU does is `scripts/gpu_check.sh`'s.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from app.decoder.fused import FusedDecoder, can_fuse, join
from app.engine import lane
from app.engine.config import EngineConfig
from app.engine.engine import Engine
from tests.app.decoder.test_lean import FAMILY, made, through_slots
from tests.app.engine.test_reference import assert_same, mixed_requests
from tests.app.engine.test_swap import Cold, request
from training.models.checkpoint import publish, verify
from training.models.policy import Policy, fingerprint, load_policy
from training.sample import sample


@pytest.fixture
def fused_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines take the fused forward though the model is not on a GPU."""
    monkeypatch.setattr(lane, "can_fuse", lambda _model: True)


def policy_of(policy: Policy, model: Any) -> Policy:
    return Policy(model, policy.tokenizer, policy.version, policy.eos_ids)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 0.1)])
def test_logits_are_the_stock_models(policy: Policy, name: str, dtype: torch.dtype, tolerance: float) -> None:
    model = made(name)
    nn.Module.to(model, dtype)
    mine = policy_of(policy, model)
    expected = through_slots(mine, model, 20, 4)
    torch.testing.assert_close(through_slots(mine, FusedDecoder(model), 20, 4), expected, rtol=0, atol=tolerance)


@pytest.mark.usefixtures("fused_anywhere")
def test_answers_are_the_references(policy: Policy) -> None:
    requests = mixed_requests(16, most_latents=2)
    engine = Engine(policy, EngineConfig(slots=4, max_length=128, prefill_chunk=16))
    assert isinstance(engine._lanes.serving._view, FusedDecoder)
    for asked, (finished,) in zip(requests, engine.generate(requests), strict=True):
        assert_same(finished.rollout, sample(policy, asked.prompt_ids, asked.sampling, asked.max_new), 2e-4)


@pytest.mark.usefixtures("fused_anywhere")
@pytest.mark.parametrize("mode", ["two_versions", "in_place", "drain"])
def test_a_swap_reaches_every_weight(cold: Cold, checkpoints: dict[int, Path], mode: Any) -> None:
    config = EngineConfig(slots=2, max_length=128, swap_mode=mode)
    asked = [request(seed) for seed in range(3)]
    warm, fresh = Engine(cold(3), config), Engine(cold(4), config)
    warm.generate(asked)
    done = warm.swap(checkpoints[4], 4)
    while not done.done():
        warm._turn()
    assert done.result().fingerprint == verify(checkpoints[4]).fingerprint
    assert fingerprint(warm._lanes.serving.policy.model) == verify(checkpoints[4]).fingerprint
    for one, other in zip(warm.generate(asked), fresh.generate(asked), strict=True):
        assert_same(one[0].rollout, other[0].rollout, 0.0)


def test_a_joined_model_is_published_and_copied_as_any_other(policy: Policy, tmp_path: Path) -> None:
    model = copy.deepcopy(policy.model)
    before = fingerprint(model)
    FusedDecoder(model)
    assert fingerprint(model) == before
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert fingerprint(model) == before, "a copy must not write into the buffer"
    made = publish(policy_of(policy, model), tmp_path, version=5, parent_version=None, training={}, created="now")
    assert fingerprint(load_policy(made, version=5, dtype=torch.float32, device="cpu").model) == before


def test_parameters_joined_before_are_left_where_they_are() -> None:
    parts = [nn.Parameter(torch.randn(rows, 4)) for rows in (3, 2, 5)]
    values = [part.detach().clone() for part in parts]
    first = join(parts)
    assert join(parts).data_ptr() == first.data_ptr()
    assert torch.equal(first, torch.cat(values))
    with torch.no_grad():
        parts[1].zero_()
    assert not first[3:5].any()


def test_a_model_on_a_cpu_is_not_fused(policy: Policy) -> None:
    assert not can_fuse(policy.model)
