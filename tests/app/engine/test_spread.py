"""A model that accelerate has spread over devices: hooks move its inputs, and a second lane must have hooks of its own.

There is one device here, so the hooks are forced: they are the ones that `device_map="auto"` puts on several.
"""

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from accelerate import dispatch_model
from accelerate.hooks import AlignDevicesHook

from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.engine.request import Request
from tests.app.engine.conftest import running
from tests.app.engine.test_reference import assert_same, in_double, mixed_requests
from tests.app.engine.test_swap import Cold, one_by_one, request, swapped
from training.models.policy import Policy, fingerprint
from training.sample import sample


def spread(policy: Policy) -> Policy:
    """Put the hooks of several devices on a copy of a policy's model."""
    model: Any = copy.deepcopy(policy.model)
    parts = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head", "model.layers.0", "model.layers.1"]
    dispatch_model(model, dict.fromkeys(parts, "cpu"), skip_keys="past_key_values", force_hooks=True)
    assert isinstance(model.model.layers[1]._hf_hook, AlignDevicesHook)
    return dataclasses.replace(policy, model=model)


def test_a_spread_model_answers_as_the_reference_does(policy: Policy) -> None:
    policy = in_double(policy)
    requests = mixed_requests(8)
    engine = Engine(spread(policy), EngineConfig(slots=3, max_length=128, prefill_chunk=16))
    for asked, (finished,) in zip(requests, engine.generate(requests), strict=True):
        assert_same(finished.rollout, sample(policy, asked.prompt_ids, asked.sampling, asked.max_new), 1e-5)


@pytest.mark.parametrize("versions", [(4,), (4, 3, 5)])
def test_swaps_of_a_spread_model_equal_a_cold_start(
    cold: Cold, checkpoints: Mapping[int, Path], versions: tuple[int, ...]
) -> None:
    requests: list[Request] = [request(seed, prompt=tuple(range(seed, seed + 30))) for seed in range(3, 7)]
    first = spread(cold(3))
    with running(first) as engine:
        for version in versions:
            swapped(engine, checkpoints, version)
            with running(cold(version), packing="off") as fresh:  # a spread model is not packed
                expected = one_by_one(fresh, requests)
            for got, want in zip(one_by_one(engine, requests), expected, strict=True):
                assert_same(got.rollout, want.rollout, 0.0)
        lanes = list(engine._lanes)
    assert len(lanes) == 2
    for lane in lanes:
        modules = dict(lane.policy.model.named_modules())
        hooked = [module for module in modules.values() if hasattr(module, "_hf_hook")]
        assert len(hooked) > 10
        assert all(module.forward.args == (module,) for module in hooked)  # each hook runs the module it stands on
    held: set[int] = {parameter.data_ptr() for parameter in lanes[0].policy.model.parameters()}
    assert held.isdisjoint(parameter.data_ptr() for parameter in lanes[1].policy.model.parameters())
    if versions == (4,):
        assert fingerprint(first.model) == fingerprint(cold(3).model)  # staging never touched what served
