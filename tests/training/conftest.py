"""Tiny models of stock architectures, saved to disk with a real tokenizer, and the oracle's data.

The models are random, so nothing here says that a policy is good; what it answers depends on every weight, which is
what the tests of arithmetic need. A policy of a session fixture is shared: a test that changes weights loads its own.
"""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from tests.tiny import SHAPE, VOCABULARY
from training.models.policy import Policy, load_policy

ORACLE = Path(__file__).parents[1] / "oracle"
FAMILIES = ("qwen2", "qwen3", "llama")
TEXT = ("What is 2 + 3? The answer is 5.", "Work out 17 - 9 step by step.", "You are a careful calculator.")
TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on a few sentences, with a chat template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|bos|>", "<|im_end|>", "<|pad|>", "<|im_start|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXT * 20, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=special[0],
        eos_token=special[1],
        pad_token=special[2],
        additional_special_tokens=[special[3]],
    )
    fast.chat_template = TEMPLATE
    return fast


@pytest.fixture(scope="session")
def model_dirs(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Mapping[str, Path]:
    """Random float32 models by family ("qwen2" with tied embeddings, "qwen3", "llama"), in the Hugging Face layout."""
    configs: dict[str, PreTrainedConfig] = {
        "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=True),
        "qwen3": Qwen3Config(**SHAPE, tie_word_embeddings=False),
        "llama": LlamaConfig(**SHAPE, tie_word_embeddings=False),
    }
    root = tmp_path_factory.mktemp("models")
    for family, config in configs.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(11)
            AutoModelForCausalLM.from_config(config).save_pretrained(root / family)
        tokenizer.save_pretrained(root / family)
    return {family: root / family for family in configs}


@pytest.fixture(scope="session")
def policies(model_dirs: Mapping[str, Path]) -> Mapping[str, Policy]:
    """Those models as float32 policies of version 3, shared: do not change their weights."""
    return {
        family: load_policy(directory, version=3, dtype=torch.float32, device="cpu")
        for family, directory in model_dirs.items()
    }


@pytest.fixture(scope="session")
def policy(policies: Mapping[str, Policy]) -> Policy:
    """The Qwen2 policy of `policies`."""
    return policies["qwen2"]


@pytest.fixture
def own_policy(model_dirs: Mapping[str, Path]) -> Policy:
    """A Qwen2 policy of this test alone: its weights may be changed."""
    return load_policy(model_dirs["qwen2"], version=3, dtype=torch.float32, device="cpu")


@pytest.fixture(scope="session")
def prompt_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """A prompt of a dozen tokens."""
    ids: list[int] = tokenizer("What is 17 - 9? Work out step by step.").input_ids
    return ids


@pytest.fixture(scope="session")
def oracle() -> Path:
    """Directory of an independent implementation's numbers; its README says what they are."""
    return ORACLE
