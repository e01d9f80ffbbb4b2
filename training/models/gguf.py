"""A GGUF file, as llama.cpp's world passes models on: read through transformers, and only where that reads it rightly.

transformers rebuilds configuration, tokenizer and weights from the file's metadata, and passes over what it does not
know: a scaling of positions, a window, a rule that splits text. Each of these would give a model that answers, only
worse. So what the file says is held against what came out of it, and a difference is refused with its name; three are
mended: the size of heads, Llama 3's scaling of positions, and the splitting of digits. Needs the extra `gguf`. Leaves
out unpacking the blocks (`training.models.quantised`) and hub names: the file is here.
"""

import importlib.util
import json
import math
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.configuration_utils import PreTrainedConfig
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
from transformers.integrations.gguf.reader import GgufHeader, read_gguf_metadata
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from training.models.rope import ropes

_NEEDED: Final = ("gguf", "accelerate")  # by transformers, to read such files
_FREQUENCIES: Final = "rope_freqs.weight"  # divisors of the rotary frequencies: Llama 3's way to longer contexts
_SAME: Final = {  # what the file says, by the end of its key, and where the configuration has it
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "logit_scale": "logit_scale",
    "expert_used_count": "num_experts_per_tok",
}
_UNREAD: Final = ("rope.scaling.factor", "embedding_scale", "residual_scale", "attention.scale")  # harmless at 1 or 0
_GPT2_SPLITS: Final = ("gpt-2", "phi-2", "olmo", "mpt")  # what transformers falls back to is right for these
_DIGITS: Final = ("smollm", "starcoder", "refact", "command-r")  # that, with every digit apart
_ENDS: Final = ("eos_token_id", "eot_token_id", "eom_token_id")  # of a text, of a turn, of a message


def is_gguf(source: str | Path) -> bool:
    """Whether a model is named by a GGUF file."""
    return Path(source).suffix.lower() == ".gguf"


@dataclass(frozen=True, slots=True)
class GgufFile:
    """An open file's header; the weights stay on disk.

    Example: `GgufFile.open(Path("SmolLM2-135M-Instruct.Q4_1.gguf"))`.
    """

    path: Path
    metadata: dict[str, Any]  # by key; arrays of text as their length
    header: GgufHeader  # tensors by name, shape, type and place

    @classmethod
    def open(cls, path: Path) -> "GgufFile":
        """Read the header.

        Raises:
            ValueError: the extra is missing, or the file is not there, no GGUF, cut short or a part of several.

        """
        path = path.expanduser().resolve()
        lacking = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
        if lacking:
            raise ValueError(f"GGUF files need {' and '.join(lacking)}: pip install 'lepo-service[gguf]'")
        if not path.is_file():
            raise ValueError(f"no model file at '{path}': give an existing .gguf file")
        try:
            metadata, _ = read_gguf_metadata(str(path))
            header = GgufHeader.from_file(str(path))
        except (ValueError, IndexError, struct.error) as error:
            raise ValueError(f"'{path}' is no GGUF file that can be read: {error}") from error
        parts = metadata.get("split.count", 0)
        if parts > 1:
            raise ValueError(
                f"'{path}' is one of {parts} parts: join them (llama-gguf-split --merge) and give the whole"
            )
        ends = header.data_start + max((one.offset + one.nbytes for one in header.tensors), default=0)
        if path.stat().st_size < ends:
            raise ValueError(f"'{path}' is cut short: it has {path.stat().st_size} of {ends} bytes; fetch it again")
        return cls(path, metadata, header)

    @property
    def parameters(self) -> int:
        """Values of all weights, a tied one once."""
        return sum(math.prod(one.shape) for one in self.header.tensors if one.name != _FREQUENCIES)

    def config(self) -> PreTrainedConfig:
        """Give the configuration that transformers rebuilds, where it says what the file says.

        Raises:
            ValueError: it does not, or transformers does not know the architecture.

        """
        try:
            config = AutoConfig.from_pretrained(self.path.parent, gguf_file=self.path.name)
        except (ValueError, KeyError) as error:
            raise ValueError(f"transformers does not read '{self.path}': {error}") from error
        config = cast("PreTrainedConfig", config)
        self._size_heads(config)
        self._scale_positions(config)
        differing = list(self._differing(config))
        if differing:
            raise ValueError(
                f"'{self.path}' says {'; '.join(differing)}: transformers does not take that over, so its answers "
                "would be wrong without a word; give the model's own directory or hub name instead"
            )
        return config

    def tokenizer(self, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
        """Give the tokenizer that transformers rebuilds, where it splits text as the file says.

        It is saved beside the configuration and opened again, as the published checkpoint will be: some kinds of model
        have a tokenizer class with a rule of its own, which takes over then.

        Raises:
            ValueError: it splits text otherwise.

        """
        rule = self.metadata.get("tokenizer.ggml.pre")
        byte_level = self.metadata.get("tokenizer.ggml.model") == "gpt2"
        if byte_level and rule not in {*GGUF_PRE_TOKENIZER_SPLITS, *_GPT2_SPLITS, *_DIGITS}:
            raise ValueError(
                f"'{self.path}' splits text by the rule {rule!r}, which transformers does not know: give the "
                "model's own directory or hub name instead"
            )
        try:
            made = AutoTokenizer.from_pretrained(self.path.parent, gguf_file=self.path.name)
        except (ValueError, KeyError) as error:
            raise ValueError(f"transformers does not read the tokenizer of '{self.path}': {error}") from error
        tokenizer: Any = made
        if byte_level and rule in _DIGITS:
            apart = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
            tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(apart)
        with tempfile.TemporaryDirectory() as directory:
            config.save_pretrained(directory)
            tokenizer.save_pretrained(directory)
            again: Any = AutoTokenizer.from_pretrained(directory)
        if _splits(again) != _splits(tokenizer):
            raise ValueError(
                f"'{self.path}' splits text by the rule {rule!r}, and the tokenizer of a {config.model_type} model by "
                "another: give the model's own directory or hub name instead"
            )
        return cast("PreTrainedTokenizerBase", again)

    def settle(self, model: PreTrainedModel) -> None:
        """Check that every weight of the file is in the model, and let the model end where the file says.

        Raises:
            ValueError: the file holds more than the model takes, or less.

        """
        taken = sum(parameter.numel() for parameter in model.parameters())
        if taken != self.parameters:
            raise ValueError(
                f"'{self.path}' holds {self.parameters} weights and {type(model).__name__} takes {taken}: transformers "
                "does not read all of it; give the model's own directory or hub name instead"
            )
        generation: Any = model.generation_config
        generation.eos_token_id = self.ends() or generation.eos_token_id

    def ends(self) -> list[int]:
        """Ids that end an answer."""
        named = {self.metadata.get(f"tokenizer.ggml.{name}") for name in _ENDS}
        return sorted(one for one in named if one is not None)

    def _said(self, key: str) -> Any:
        """Look up what the file says under a key of its architecture."""
        return self.metadata.get(f"{self.header.architecture}.{key}")

    def _differing(self, config: PreTrainedConfig) -> Iterator[str]:
        """Name what the configuration has otherwise than the file."""
        text: Any = config.get_text_config()
        for key, name in _SAME.items():
            said = self._said(key)
            taken = getattr(text, name, said if name == "head_dim" else None)  # some work the head size out
            if said is not None and not _same(said, taken):
                yield f"{key} = {said}"
        base = self._said("rope.freq_base")
        if base is not None and not any(_same(base, one.get("rope_theta")) for one in ropes(text)):
            yield f"rope.freq_base = {base}"
        for key in _UNREAD:
            said = self._said(key)
            if said not in {None, 0.0, 1.0} and not (key.startswith("rope") and text.model_type == "gpt_oss"):
                yield f"{key} = {said}"
        factors = [one.name for one in self.header.tensors if one.name.startswith("rope_factors")]
        if factors:
            yield f"{' and '.join(factors)} for its positions"

    def _size_heads(self, config: PreTrainedConfig) -> None:
        """Give a model the size of its heads, where its class has one apart from its width."""
        text: Any = config.get_text_config()
        size = self._said("attention.key_length")
        if size is not None and hasattr(text, "head_dim"):
            text.head_dim = size

    def _scale_positions(self, config: PreTrainedConfig) -> None:
        """Give a Llama its scaling of positions: the file has only its result, so the rule is proven against that.

        Raises:
            ValueError: the divisors are not those of Llama 3's rule.

        """
        found = [one for one in self.header.tensors if one.name == _FREQUENCIES]
        if not found:
            return
        offset = self.header.data_start + found[0].offset
        divisors_X = np.memmap(self.path, np.float32, "r", offset, found[0].shape)
        text: Any = config.get_text_config()
        text.rope_parameters = {
            "rope_type": "llama3",
            "rope_theta": text.rope_parameters["rope_theta"],
            "factor": float(divisors_X.max()),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
        scaled_X, _ = ROPE_INIT_FUNCTIONS["llama3"](text, "cpu")
        plain_X = text.rope_parameters["rope_theta"] ** -torch.linspace(0, 1, len(scaled_X) + 1)[:-1]
        if not torch.allclose(plain_X / scaled_X, torch.tensor(np.array(divisors_X)), rtol=1e-3):
            raise ValueError(
                f"'{self.path}' scales its positions by a rule that is not Llama 3's: give the model's own directory "
                "or hub name instead"
            )


def _splits(tokenizer: Any) -> Any:
    """Describe how a tokenizer cuts text before it merges."""
    return json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"]


def _same(said: Any, taken: Any) -> bool:
    """Compare a number of the file, float32, with the configuration's."""
    if not isinstance(said, int | float) or not isinstance(taken, int | float):
        return bool(said == taken)
    return math.isclose(said, taken, rel_tol=1e-6)
