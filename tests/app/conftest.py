"""Tiny random models of several architectures with a real tokenizer."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from tests.tiny import SHAPE, VOCABULARY
from training.models.checkpoint import publish
from training.models.policy import Policy, eos_ids, load_policy

TEXT = ("What is 2 + 3? The answer is 5.", "Work out 17 - 9 step by step.", "You are a careful calculator: ä ö € 漢字.")
MIXED = ["full_attention", "sliding_attention"]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|bos|>", "<|im_end|>", "<|pad|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXT * 20, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=special[0], eos_token=special[1], pad_token=special[2]
    )


def configurations() -> dict[str, PreTrainedConfig]:
    return {
        "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=True),
        "qwen3": Qwen3Config(**SHAPE, tie_word_embeddings=False),
        "llama": LlamaConfig(**SHAPE, tie_word_embeddings=False),
        "mistral": MistralConfig(**SHAPE, sliding_window=7),
        "qwen2_mixed": Qwen2Config(
            **SHAPE, use_sliding_window=True, sliding_window=5, max_window_layers=1, layer_types=MIXED
        ),
        "gemma3": Gemma3TextConfig(**SHAPE, sliding_window=6, layer_types=MIXED, query_pre_attn_scalar=8),
    }


def made(
    config: PreTrainedConfig, seed: int, tokenizer: PreTrainedTokenizerFast, version: int, attention: str = "sdpa"
) -> Policy:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    return Policy(model, tokenizer, version, eos_ids(model, tokenizer))


@pytest.fixture(scope="session")
def policies(tokenizer: PreTrainedTokenizerFast) -> Mapping[str, Policy]:
    """Float32 policies of version 3 by family, shared: nobody changes their weights."""
    return {family: made(config, 11, tokenizer, 3) for family, config in configurations().items()}


@pytest.fixture(scope="session")
def policy(policies: Mapping[str, Policy]) -> Policy:
    return policies["qwen2"]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Mapping[int, Path]:
    """Published checkpoints of versions 3 to 6 of the Qwen2 shape; version 3 holds the weights of `policy`."""
    parent = tmp_path_factory.mktemp("checkpoints")
    config = configurations()["qwen2"]
    return {
        version: publish(
            made(config, 8 + version, tokenizer, version),
            parent,
            version=version,
            parent_version=None,
            training={},
            created="2026-01-01T00:00:00Z",
        )
        for version in (3, 4, 5, 6)
    }


@pytest.fixture
def cold(checkpoints: Mapping[int, Path]) -> Callable[[int], Policy]:
    """Load a checkpoint as a fresh process would; the policy is the test's own."""

    def load(version: int) -> Policy:
        return load_policy(checkpoints[version], version=version, dtype=torch.float32, device="cpu")

    return load
