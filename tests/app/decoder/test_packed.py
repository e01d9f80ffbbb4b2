"""Packed weights: the same parameters in another layout, which follows them only when told to."""

import copy
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from torch import Tensor

from app.decoder.packed import PackedLinear, PackedModel, can_pack
from app.engine.config import EngineConfig, Packing
from app.engine.engine import Engine
from tests.app.engine.test_reference import in_double
from tests.app.engine.test_swap import Cold, request
from training.models.policy import Policy

IDS_BT = torch.arange(40, 60).view(2, 10)


@torch.inference_mode()
def logits(model: Any) -> Tensor:
    out: Tensor = model(input_ids=IDS_BT, use_cache=False).logits
    return out


def test_a_view_shares_every_parameter_and_gives_the_models_logits(policy: Policy) -> None:
    view = PackedModel(policy.model)
    theirs = dict(policy.model.named_parameters(remove_duplicate=False))
    mine = dict(view.model.named_parameters(remove_duplicate=False))
    assert mine.keys() == theirs.keys()
    assert all(mine[name] is theirs[name] for name in theirs)
    torch.testing.assert_close(logits(view), logits(policy.model), rtol=0, atol=2e-4)
    packed = [module for module in view.model.modules() if isinstance(module, PackedLinear)]
    assert len(packed) == 2 * 7 + 1  # of each layer, and the head
    assert not any(isinstance(module, PackedLinear) for module in policy.model.modules())


def test_a_view_follows_changed_weights_when_repacked_and_not_before(cold: Cold) -> None:
    model, other = cold(3).model, cold(4).model
    view = PackedModel(model)
    model.load_state_dict(other.state_dict())
    expected = logits(PackedModel(other))
    assert not torch.equal(logits(view.model), expected)
    view.repack()
    assert torch.equal(logits(view.model), expected)


def test_only_plain_float32_on_a_cpu_is_packed(policy: Policy) -> None:
    assert can_pack(policy.model)
    assert not can_pack(in_double(policy).model)
    hooked: Any = copy.deepcopy(policy.model)
    dispatch_model(hooked, {"": "cpu"}, force_hooks=True)
    assert not can_pack(hooked)


@pytest.mark.parametrize(("packing", "packed"), [("auto", True), ("off", False)])
def test_the_setting_decides(policy: Policy, packing: Packing, packed: bool) -> None:
    engine = Engine(policy, EngineConfig(slots=2, max_length=128, packing=packing))
    assert engine.packed is packed
    ((finished,),) = engine.generate([request(5)])
    assert finished.rollout.answer_length == 22
