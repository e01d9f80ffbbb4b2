"""Adapters learn and nothing else does; merged and apart they are one policy; what was saved goes on.

What is reported and guarded is what serves: the merged weights, as they were rounded.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from training.models.lora import ADAPTER, Adapted, LoraSettings
from training.optimization.health import HealthConfig, UpdateRejected
from training.optimization.optimizer import OptimizerConfig
from training.update import Learner, UpdateConfig

from .rollouts import MODELS, mixed_batch, tiny

SETTINGS = LoraSettings(rank=4, alpha=8.0)
CONFIG = UpdateConfig(optimizer=OptimizerConfig(learning_rate=1e-2), health=HealthConfig(max_kl=float("inf")))
ADVANTAGES = [1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 0.3]
IDS = torch.tensor([[3, 5, 7, 11, 13]])


def learned(name: str = "qwen2", dtype: torch.dtype = torch.float32, updates: int = 2) -> tuple[Adapted, Learner]:
    adapted = Adapted(tiny(name, dtype), SETTINGS, "tiny")
    learner = Learner(adapted.model, CONFIG, follower=adapted)
    for _ in range(updates):
        learner.update(mixed_batch(), ADVANTAGES)
    return adapted, learner


def weights(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: one.detach().clone() for name, one in model.named_parameters()}


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


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own
def test_experts_have_adapters_and_are_merged_saved_and_opened(tmp_path: Path) -> None:
    adapted, learner = learned("mixtral")
    first = tiny("mixtral")
    with torch.no_grad():
        merged, apart = adapted.served(IDS).logits, adapted.model(IDS).logits
    torch.testing.assert_close(merged, apart, atol=2e-5, rtol=1e-5)
    start = dict(first.named_parameters())
    changed = {name for name, one in adapted.served.named_parameters() if not torch.equal(one, start[name])}
    assert changed == {name for name in start if name.endswith(("_proj", "proj.weight"))}, "experts too, routers not"
    adapted.save(tmp_path)
    opened = PeftModel.from_pretrained(tiny("mixtral"), tmp_path / ADAPTER)
    with torch.no_grad():
        torch.testing.assert_close(opened(IDS).logits, apart)
    other = Adapted(tiny("mixtral"), SETTINGS, "tiny", seed=9)
    other.load(tmp_path)
    theirs = weights(other.served)
    assert all(torch.equal(one, theirs[name]) for name, one in adapted.served.named_parameters())
    assert any("experts" in name for name in learner.state())


@pytest.mark.parametrize("recomputed", [False, True])
def test_experts_in_bfloat16_learn_with_and_without_recomputing(recomputed: bool) -> None:
    adapted = Adapted(tiny("mixtral", torch.bfloat16), SETTINGS, "tiny")
    learner = Learner(adapted.model, replace(gentle(1e-3), activation_checkpointing=recomputed), follower=adapted)
    for _ in range(2):
        report = learner.update(mixed_batch("mixtral", torch.bfloat16), ADVANTAGES)
    assert abs(report.merge_loss) < 0.1
    assert report.gradient_norm > 0
    assert report.kl > 0


def test_a_model_that_adapters_would_leave_mostly_as_it_is_is_refused() -> None:
    config = GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=37, n_positions=64)
    with pytest.raises(ValueError, match="reach 0% of the weights of GPT2Model"):
        Adapted(GPT2LMHeadModel(config), SETTINGS, "tiny")  # its layers are convolutions


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
    resumed = Learner(other.model, CONFIG, follower=other)
    resumed.restore(learner.state())
    for each in (learner, resumed):
        each.update(mixed_batch(), ADVANTAGES)
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
    assert (merged - apart).abs().max() < 0.1 * apart.abs().max()


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


def gentle(learning_rate: float) -> UpdateConfig:
    return replace(CONFIG, optimizer=OptimizerConfig(learning_rate=learning_rate))


def test_what_serves_in_bfloat16_has_what_was_learned() -> None:
    """Changes far below the resolution: to the nearest most of them would be lost."""
    adapted = Adapted(tiny(dtype=torch.bfloat16), LoraSettings(16, 32.0), "tiny")
    learner = Learner(adapted.model, gentle(1e-4), follower=adapted)
    for _ in range(3):
        report = learner.update(mixed_batch(dtype=torch.bfloat16), ADVANTAGES)
    assert abs(report.merge_loss) < 0.1
    kept = asked = 0.0
    for _, adapter, first, _ in adapted._pairs():
        change = adapter.get_delta_weight("default").detach().float()
        nearest = (first.float() + change).to(torch.bfloat16)
        kept += float(((nearest.float() - first.float()) * change).sum())
        asked += float(change.square().sum())
    assert kept < 0.6 * asked, "the changes must be small enough for this to be a test"


def test_float32_loses_nothing() -> None:
    adapted = Adapted(tiny(), SETTINGS, "tiny")
    report = Learner(adapted.model, gentle(1e-2), follower=adapted).update(mixed_batch(), ADVANTAGES)
    assert report.merge_loss == pytest.approx(0.0, abs=1e-6)
    assert report.merge_kl == pytest.approx(0.0, abs=1e-6)
    assert report.kl > 1e-3


class Deaf:
    """A policy that does not follow."""

    def __init__(self) -> None:
        self.served = tiny()

    def merge(self) -> float:
        return 1.0


def test_the_report_and_the_guards_are_of_what_serves() -> None:
    rollouts, strict = mixed_batch(), replace(gentle(1e-2), health=HealthConfig(max_kl=1e-4))
    twin = Adapted(tiny(), SETTINGS, "tiny").model
    report = Learner(twin, strict, follower=Deaf()).update(rollouts, ADVANTAGES)
    assert (report.kl, report.merge_loss) == (0.0, 1.0)
    assert report.entropy_after == report.entropy_before
    assert report.merge_kl > 1e-3, "the twin moved, and how far what serves is from it is told"
    with pytest.raises(UpdateRejected, match="moved too far"):
        Learner(tiny(), strict).update(rollouts, ADVANTAGES)


def test_a_refused_update_leaves_what_serves_bit_for_bit() -> None:
    adapted, learner = learned(dtype=torch.bfloat16)
    before, state = weights(adapted.served), learner.state()
    strict = Learner(adapted.model, replace(CONFIG, health=HealthConfig(max_kl=1e-9)), follower=adapted)
    strict.restore(state)
    with pytest.raises(UpdateRejected, match="moved too far"):
        strict.update(mixed_batch(), [-one for one in ADVANTAGES])
    assert all(torch.equal(one, before[name]) for name, one in weights(adapted.served).items())


def test_parts_of_a_layer_are_merged_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    adapted, _ = learned(dtype=torch.bfloat16)
    whole = weights(adapted.served)
    monkeypatch.setattr("training.models.lora._ROWS_ELEMENTS", 100)
    adapted.merge()
    assert all(torch.equal(one, whole[name]) for name, one in weights(adapted.served).items())
