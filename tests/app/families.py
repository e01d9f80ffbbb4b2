"""Small random models of the families that are published, saved as they are on a hub: a directory per family."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from tests.tiny import SHAPE

ROOM = 64  # positions that the models with scaled rotary embeddings were first trained for
_MIXED = ["sliding_attention", "full_attention"]
_SAME_HEADS: dict[str, Any] = {name: value for name, value in SHAPE.items() if name != "head_dim"}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": ROOM,
}
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": ROOM,
}


def families() -> dict[str, PreTrainedConfig]:
    return {
        "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=True),
        "qwen3": Qwen3Config(**SHAPE),
        "llama": LlamaConfig(**SHAPE),
        "llama3_1": LlamaConfig(**SHAPE, rope_parameters=_LLAMA3),
        "llama_dynamic": LlamaConfig(
            **SHAPE | {"max_position_embeddings": ROOM},
            rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
        ),
        "mistral": MistralConfig(**SHAPE, sliding_window=7),
        "gemma2": Gemma2Config(**SHAPE, sliding_window=6, query_pre_attn_scalar=8, attn_logit_softcapping=2.0),
        "gemma3": Gemma3TextConfig(**SHAPE, sliding_window=6, layer_types=_MIXED, query_pre_attn_scalar=8),
        "phi3": Phi3Config(**_SAME_HEADS, sliding_window=None),
        "phi3_long": Phi3Config(
            **_SAME_HEADS, sliding_window=None, original_max_position_embeddings=ROOM, rope_parameters=_LONG
        ),
        "gpt_oss": GptOssConfig(
            **SHAPE, sliding_window=8, layer_types=_MIXED, num_local_experts=4, num_experts_per_tok=2
        ),
        "olmo": OlmoConfig(**_SAME_HEADS),
        "olmo2": Olmo2Config(**_SAME_HEADS),
        "olmo3": Olmo3Config(**_SAME_HEADS, sliding_window=8, layer_types=_MIXED),
        "mixtral": MixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2, sliding_window=None),
        "qwen3_moe": Qwen3MoeConfig(**SHAPE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32),
    }


def save(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, directory: Path) -> Path:
    """Write random weights of this shape, and a tokenizer beside them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
