"""The written-out forward: the stock model's logits from the stock model's parameters."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from app.decoder.anatomy import examine
from app.decoder.cache import BlockPool, PagedCache
from app.decoder.lean import LeanDecoder, can_lean, view_of
from app.decoder.masks import Masks
from app.decoder.packed import PackedModel, multiplies_bfloat16
from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.engine.lane import as_kept
from app.engine.request import Request
from training.models.head import take_apart
from training.models.policy import Policy
from training.replay import replay
from training.sampling import Sampling

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
FAMILY: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8)),
    "qwen2": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True)),
}


def made(name: str) -> PreTrainedModel:
    """Make a small model whose every parameter matters: biases and norms are drawn, too."""
    torch.manual_seed(0)
    model: PreTrainedModel = FAMILY[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


@torch.inference_mode()
def through_slots(policy: Policy, view: Any, first: int, count: int) -> Tensor:
    """Logits [B, steps, V] of `count` single steps behind a chunk of `first` positions; rows stand apart."""
    anatomy = examine(policy)
    if isinstance(view, LeanDecoder):
        anatomy = as_kept(anatomy, policy.model, EngineConfig())
    masks = Masks(anatomy.kinds, anatomy.window, 64, anatomy.layers[0].keys.dtype, policy.device)
    cache = PagedCache(BlockPool(anatomy.layers, 9))
    table_BT = torch.tensor([[3, 8, 1, 6], [7, 2, 5, 4]])
    ids_BT = (torch.arange(2 * (first + count)).view(2, -1) * 7919 + 13) % 96
    given = []
    for begin, end in [(0, first), *((at, at + 1) for at in range(first, first + count))]:
        position_BC = torch.arange(begin, end).repeat(2, 1)
        cache.bind(table_BT, position_BC, 32)
        out = view(
            inputs_embeds=policy.model.get_input_embeddings()(ids_BT[:, begin:end]),
            attention_mask=masks(position_BC, 32),
            position_ids=position_BC,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        given.append(out.logits[:, -1])
    return torch.stack(given, dim=1)


def as_policy(policy: Policy, model: PreTrainedModel) -> Policy:
    """Another model under a policy's name and tokenizer."""
    changed = copy.copy(policy)
    object.__setattr__(changed, "model", model)
    return changed


@pytest.mark.parametrize("name", FAMILY)
def test_chunks_and_steps_give_the_stock_models_logits(policy: Policy, name: str) -> None:
    mine = as_policy(policy, made(name))
    view = view_of(mine.model)
    assert isinstance(view, LeanDecoder)
    torch.testing.assert_close(
        through_slots(mine, view, 12, 6), through_slots(mine, mine.model, 12, 6), rtol=1e-5, atol=1e-5
    )


@pytest.mark.skipif(not multiplies_bfloat16(), reason="this processor does not multiply bfloat16 itself")
@pytest.mark.parametrize("name", FAMILY)
def test_in_bfloat16_the_products_alone_are(policy: Policy, name: str) -> None:
    """Nearer to the float32 model of the same weights than the stock forward in bfloat16 is."""
    low, wide = made(name), made(name)
    torch.nn.Module.to(low, torch.bfloat16)
    torch.nn.Module.to(torch.nn.Module.to(wide, torch.bfloat16), torch.float32)
    mine, theirs = as_policy(policy, low), as_policy(policy, wide)
    view = view_of(low)
    assert isinstance(view, LeanDecoder)
    exact = through_slots(theirs, wide, 12, 6)
    ours, stock = through_slots(mine, view, 12, 6).float(), through_slots(mine, low, 12, 6).float()
    assert (ours - exact).abs().mean() < (stock - exact).abs().mean()
    assert (ours - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.skipif(not multiplies_bfloat16(), reason="this processor does not multiply bfloat16 itself")
def test_answers_in_bfloat16_are_recorded_as_they_were_drawn(policy: Policy) -> None:
    """Replay in bfloat16 gives the record, as near as bfloat16 is."""
    low = as_policy(policy, copy.deepcopy(policy.model))
    torch.nn.Module.to(low.model, torch.bfloat16)
    engine = Engine(low, EngineConfig(slots=3, max_length=128))
    assert isinstance(engine._lanes.serving._view, LeanDecoder)
    assert engine._lanes.anatomy.layers[0].keys.dtype == torch.float32
    asked = [Request(tuple(range(5, 30)), Sampling(seed=seed), max_new=20, ignore_eos=True) for seed in range(5)]
    rollouts = [finished.rollout for (finished,) in engine.generate(asked)]
    with torch.no_grad():
        replayed = replay(take_apart(low.model), rollouts)
    recorded = torch.stack([one.token_logprobs_T for one in rollouts])
    assert (replayed.token_logprobs_BT - recorded).abs().mean() < 0.05


@pytest.mark.parametrize("name", FAMILY)
def test_a_view_follows_changed_weights_when_repacked_and_not_before(policy: Policy, name: str) -> None:
    mine = as_policy(policy, made(name))
    view = view_of(mine.model)
    before = through_slots(mine, view, 4, 2)
    with torch.no_grad():
        for parameter in mine.model.parameters():
            parameter.mul_(1.5)
    assert not torch.allclose(through_slots(mine, view, 4, 2), through_slots(mine, mine.model, 4, 2), atol=1e-3)
    view.repack()
    after = through_slots(mine, view, 4, 2)
    assert torch.equal(after, through_slots(mine, view_of(mine.model), 4, 2))
    assert not torch.allclose(before, after, atol=1e-3)


def test_others_keep_their_own_forward() -> None:
    torch.manual_seed(0)
    gelu = LlamaForCausalLM(LlamaConfig(**SIZES, hidden_act="gelu"))
    assert not can_lean(gelu)
    assert isinstance(view_of(gelu), PackedModel)

    class Changed(LlamaForCausalLM):
        """Somebody's own model."""

    assert not can_lean(Changed(LlamaConfig(**SIZES)))
