"""Tiny random models of stock architectures, and rollouts that they really drew."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, cast

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from training.models.policy import Policy
from training.rollout import Rollout
from training.sample import sample
from training.sampling import Sampling

VOCABULARY = 37
EOS = 1
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,  # wide enough that distributions are far from uniform
    "bos_token_id": 0,
    "eos_token_id": EOS,
    "pad_token_id": 2,
}
MODELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"tie_word_embeddings": False, "head_dim": 8}),
    "llama": (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": False}),
    # scaled embeddings, capped logits, a window of four positions
    "gemma2": (Gemma2ForCausalLM, Gemma2Config, {"head_dim": 8, "final_logit_softcapping": 3.0, "sliding_window": 4}),
    # inputs multiplied inside the backbone, logits divided
    "granite": (GraniteForCausalLM, GraniteConfig, {"embedding_multiplier": 3.0, "logits_scaling": 4.0}),
}
# four experts, two of them per token; apart, because torch multiplies experts in no float64
MIXTURE = {"mixtral": (MixtralForCausalLM, MixtralConfig, {"num_local_experts": 4, "num_experts_per_tok": 2})}


def tiny(name: str = "qwen2", dtype: torch.dtype = torch.float32, seed: int = 0) -> PreTrainedModel:
    """A random model; the same name and seed give the same weights."""
    kind, config, options = (MODELS | MIXTURE)[name]
    torch.manual_seed(seed)
    model = cast("PreTrainedModel", kind(config(**(SHAPE | options))))
    nn.Module.to(model, dtype)
    model.train(mode=False)
    return model


def moved(model: PreTrainedModel, size: float, seed: int = 1) -> PreTrainedModel:
    """Nudge every parameter in place, so that the policy is no longer the one that sampled."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter) * size)
    return model


def policy_of(model: PreTrainedModel) -> Policy:
    words = {f"w{index}": index for index in range(VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="w3")), eos_token="w1")
    return Policy(model, tokenizer, version=0, eos_ids=frozenset({EOS}))


def mixed_batch(name: str = "qwen2", dtype: torch.dtype = torch.float32) -> list[Rollout]:
    """Seven answers of `tiny(name, dtype)`: every length, temperature and support differs."""
    return list(_mixed_batch(name, dtype))


@cache
def _mixed_batch(name: str, dtype: torch.dtype) -> tuple[Rollout, ...]:
    policy = policy_of(tiny(name, dtype))
    settings = [
        Sampling(latent_length=3, tau=0.5, seed=1),
        Sampling(latent_length=0, seed=2),
        Sampling(latent_length=1, tau=1.0, top_k=5, top_p=1.0, seed=3),
        Sampling(latent_length=5, tau=0.3, temperature=0.7, seed=4),
        Sampling(latent_length=2, tau=0.5, temperature=0.0, seed=5),
        Sampling(latent_length=0, temperature=1.3, top_p=1.0, seed=6),
        Sampling(latent_length=4, tau=0.5, temperature=1.5, seed=7),
    ]
    prompts = [[5, 6, 7], [4], [9, 8, 7, 6, 5, 4, 3], [10, 11], [12, 13, 14, 15], [20, 21], [3, 30, 31, 32, 33]]
    budgets = [9, 6, 4, 8, 7, 12, 4]  # the last one is cut short: latent steps and no token at all
    together = zip(prompts, settings, budgets, strict=True)
    return tuple(sample(policy, prompt, sampling, budget) for prompt, sampling, budget in together)


def group(model: PreTrainedModel, size: int, sampling: Sampling, prompt: Sequence[int], max_new: int) -> list[Rollout]:
    """`size` answers to one prompt."""
    policy = policy_of(model)
    return [sample(policy, prompt, replace(sampling, seed=sampling.seed + one), max_new) for one in range(size)]


def gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    """Take the gradients off the model; parameters without one are left out."""
    taken = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad(set_to_none=True)
    return taken


def backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def norm(tensors: dict[str, Tensor]) -> float:
    return float(torch.stack([one.double().norm() for one in tensors.values()]).norm())


def relative_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Largest difference of a tensor as a share of its norm (a share of all, where its norm is 0)."""
    assert ours.keys() == theirs.keys()
    whole = norm(theirs)
    shares = [
        float((ours[name].double() - one.double()).norm()) / (float(one.double().norm()) or whole)
        for name, one in theirs.items()
    ]
    return max(shares)
