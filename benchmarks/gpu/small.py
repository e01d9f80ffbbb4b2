"""Small random models of stock families, and requests that differ in everything that belongs to one request.

Their logits are sharp, so what is drawn depends on everything before it; sizes suit every attention kernel of a GPU.
"""

import copy
import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from app.engine.request import Request
from benchmarks.gpu.setup import tokenizer_of
from training.models.policy import Policy
from training.rollout import Rollout
from training.sampling import Sampling

VOCABULARY = 512
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
FAMILIES = ("llama", "qwen2", "qwen3", "mistral")


def configuration(family: str) -> PreTrainedConfig:
    """Make the configuration of a family: tied and not, with and without head norms, biases and a window."""
    made: dict[str, PreTrainedConfig] = {
        "llama": LlamaConfig(**_SIZES, tie_word_embeddings=False),
        "qwen2": Qwen2Config(**_SIZES, tie_word_embeddings=True),
        "qwen3": Qwen3Config(**_SIZES, tie_word_embeddings=False),
        "mistral": MistralConfig(**_SIZES, sliding_window=9),
    }
    return made[family]


def policy(family: str, dtype: torch.dtype, device: str, seed: int = 11, version: int = 0) -> Policy:
    """Make a model on the CPU, so that every device has the same, and move it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(configuration(family), attn_implementation="sdpa")
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:  # norms and biases are to matter, too
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.requires_grad_(requires_grad=False)
    model.train(mode=False)
    return Policy(_placed(model, device, dtype), tokenizer_of(VOCABULARY), version, frozenset({0}))


def elsewhere(one: Policy, device: str, dtype: torch.dtype | None = None) -> Policy:
    """Copy a policy to another device, or into another dtype."""
    model: Any = copy.deepcopy(one.model)
    return dataclasses.replace(one, model=_placed(model, device, dtype or one.dtype))


def _placed(model: Any, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """Move a model; its parameters take the dtype, its rotary frequencies stay as they are loaded: in float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    moved: PreTrainedModel = model.to(device)
    return moved


def mixed_requests(count: int, *, most_latents: int, seed: int = 1) -> list[Request]:
    """Make requests of ragged lengths, greedy and sampled, latents and tokens."""
    draw = random.Random(seed)  # noqa: S311 - a load, no secret
    requests = []
    for index in range(count):
        sampling = Sampling(
            latent_length=draw.choice([0, 1, most_latents]),
            tau=draw.choice([0.3, 0.5, 1.0]),
            temperature=draw.choice([0.0, 0.7, 1.0]),
            top_k=draw.choice([1, 5, 30]),
            top_p=draw.choice([0.5, 0.95, 1.0]),
            seed=100 + index,
            draws=draw.choice([1, 1, 3]),
        )
        prompt = tuple(draw.randrange(2, VOCABULARY) for _ in range(draw.randrange(1, 90)))
        requests.append(Request(prompt, sampling, max_new=draw.randrange(most_latents + 1, 40)))
    return requests


def apart(got: Sequence[Rollout], expected: Sequence[Rollout]) -> dict[str, Any]:
    """Tell how far answers are from those that were expected.

    Returns:
        `answers`; `same` of them, id by id; `steps` that agree before the first that does not, over all answers;
        `gap`, the largest difference of a log-probability among those; `first` different places.

    """
    same, steps, gap = 0, 0, 0.0
    first: list[dict[str, Any]] = []
    for index, (mine, theirs) in enumerate(zip(got, expected, strict=True)):
        latents = mine.latent_ids_LK.tolist() == theirs.latent_ids_LK.tolist()
        if latents and mine.latent_length:
            gap = max(gap, _gap(mine.latent_logprobs_LK, theirs.latent_logprobs_LK))
            gap = max(gap, _gap(mine.latent_weights_LK, theirs.latent_weights_LK))
        pairs = list(zip(mine.token_ids_T.tolist(), theirs.token_ids_T.tolist(), strict=False)) if latents else []
        agreed = next((at for at, (one, other) in enumerate(pairs) if one != other), len(pairs))
        steps += agreed
        if agreed:
            gap = max(gap, _gap(mine.token_logprobs_T[:agreed], theirs.token_logprobs_T[:agreed]))
            gap = max(gap, _gap(mine.token_log_mass_T[:agreed], theirs.token_log_mass_T[:agreed]))
        whole = latents and agreed == len(pairs) and mine.answer_length == theirs.answer_length
        same += whole
        if not whole and len(first) < 3:
            first.append({"answer": index, "latents": latents, "token": agreed})
    return {"answers": len(got), "same": same, "steps": steps, "gap": gap, "first": first}


def _gap(mine: torch.Tensor, theirs: torch.Tensor) -> float:
    finite = mine.isfinite() & theirs.isfinite()
    return float((mine - theirs)[finite].abs().max()) if finite.any() else 0.0
