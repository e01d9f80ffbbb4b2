"""Adapters learn and nothing else does; merged and apart they are one policy; what was saved goes on."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from training.health import HealthConfig
from training.lora import ADAPTER, Adapted, LoraSettings
from training.optimizer import OptimizerConfig
from training.update import Learner, UpdateConfig

from .rollouts import MODELS, mixed_batch, tiny

SETTINGS = LoraSettings(rank=4, alpha=8.0)
CONFIG = UpdateConfig(optimizer=OptimizerConfig(learning_rate=1e-2), health=HealthConfig(max_kl=float("inf")))
ADVANTAGES = [1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 0.3]
IDS = torch.tensor([[3, 5, 7, 11, 13]])


def learned(name: str = "qwen2", dtype: torch.dtype = torch.float32, updates: int = 2) -> tuple[Adapted, Learner]:
    adapted = Adapted(tiny(name, dtype), SETTINGS, "tiny")
    learner = Learner(adapted.model, CONFIG)
    for _ in range(updates):
        learner.update(mixed_batch(), ADVANTAGES)
    adapted.merge()
    return adapted, learner


@pytest.mark.parametrize("name", MODELS)
def test_the_merged_policy_is_the_one_that_learned(name: str) -> None:
    adapted, _ = learned(name)
    first = tiny(name)
    with torch.no_grad():
        merged, apart, before = (model(IDS).logits for model in (adapted._served, adapted.model, first))
    torch.testing.assert_close(merged, apart, atol=2e-5, rtol=1e-5)
    assert (merged - before).abs().max() > 1e-2
    assert type(adapted._served) is type(first)
    assert adapted._served.state_dict().keys() == first.state_dict().keys()


def test_only_adapters_have_state_and_the_first_weights_stay() -> None:
    adapted, learner = learned()
    first = dict(tiny().named_parameters())
    moments = {name for name in learner.state() if name.startswith("exp_avg.")}
    assert moments
    assert all("lora_" in name for name in moments)
    adapters = 0
    for name, parameter in adapted.model.named_parameters():
        if "lora_" in name:
            adapters += parameter.numel()
        else:
            assert torch.equal(parameter, first[name.replace(".base_layer", "")])
    assert adapters < 0.5 * sum(one.numel() for one in first.values())
    changed = {name for name, one in adapted._served.named_parameters() if not torch.equal(one, first[name])}
    assert changed == {name for name in first if name.endswith("proj.weight")}


def test_what_has_no_adapter_is_kept_once() -> None:
    served = tiny()
    adapted = Adapted(served, SETTINGS, "tiny")
    table = "model.embed_tokens.weight"
    assert adapted.model.get_parameter(table).data_ptr() == served.get_parameter(table).data_ptr()
    layer = served.get_parameter("model.layers.0.mlp.up_proj.weight")
    twin = adapted.model.get_parameter("model.layers.0.mlp.up_proj.base_layer.weight")
    assert twin.data_ptr() != layer.data_ptr()  # merging writes into the one, never the other


def test_merging_again_adds_nothing() -> None:
    adapted, _ = learned()
    once = {name: one.clone() for name, one in adapted._served.named_parameters()}
    for _ in range(3):
        adapted.merge()
    assert all(torch.equal(one, once[name]) for name, one in adapted._served.named_parameters())


def test_saved_adapters_go_on_bit_for_bit(tmp_path: Path) -> None:
    adapted, learner = learned()
    adapted.save(tmp_path)
    other = Adapted(tiny(), SETTINGS, "tiny", seed=9)
    other.load(tmp_path)
    resumed = Learner(other.model, CONFIG)
    resumed.restore(learner.state())
    for each in (learner, resumed):
        each.update(mixed_batch(), ADVANTAGES)
    for one in (adapted, other):
        one.merge()
    mine, its = adapted._served.state_dict(), other._served.state_dict()
    assert all(torch.equal(mine[name], its[name]) for name in mine)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own
def test_peft_opens_what_was_saved(tmp_path: Path) -> None:
    adapted, _ = learned()
    adapted.save(tmp_path)
    opened = PeftModel.from_pretrained(tiny(), tmp_path / ADAPTER)
    with torch.no_grad():
        torch.testing.assert_close(opened(IDS).logits, adapted.model(IDS).logits)


def test_bfloat16_weights_have_float32_adapters() -> None:
    adapted, _ = learned(dtype=torch.bfloat16)
    kinds = {("lora_" in name, one.dtype) for name, one in adapted.model.named_parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    with torch.no_grad():
        merged, apart = adapted._served(IDS).logits, adapted.model(IDS).logits
    assert (merged - apart).abs().max() < 0.05 * apart.abs().max()


def test_adapters_of_another_rank_are_refused(tmp_path: Path) -> None:
    learned()[0].save(tmp_path)
    assert load_file(tmp_path / ADAPTER / "adapter_model.safetensors")
    other = Adapted(tiny(), LoraSettings(rank=2, alpha=8.0), "tiny")
    with pytest.raises(ValueError, match="another rank"):
        other.load(tmp_path)


@pytest.mark.parametrize(("rank", "alpha"), [(0, 1.0), (1, 0.0), (1, float("nan"))])
def test_settings_out_of_range(rank: int, alpha: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        LoraSettings(rank, alpha)


def test_alpha_scales_what_adapters_do() -> None:
    found = []
    for alpha in (8.0, 16.0):
        adapted = Adapted(tiny(), LoraSettings(4, alpha), "tiny")
        with torch.no_grad():
            for name, one in adapted.model.named_parameters():
                if "lora_" in name:
                    one.fill_(0.1)
        adapted.merge()
        layer = "model.layers.0.mlp.up_proj.weight"
        found.append(adapted._served.state_dict()[layer] - tiny().state_dict()[layer])
    torch.testing.assert_close(found[1], 2 * found[0], atol=1e-5, rtol=1e-4)
