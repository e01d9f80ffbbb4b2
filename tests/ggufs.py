"""GGUF files of tiny models, written by the `gguf` package's writer in the layout of llama.cpp's converter."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

ARCHES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}
_NORMAL, _CONTROL = 1, 3


def write_gguf(
    source: Path,
    path: Path,
    tokenizer: PreTrainedTokenizerFast,
    *,
    blocks: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    pre: str = "gpt-2",
    more: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Convert a directory; matrices are stored as `blocks`, and what `more` says is written beside.

    Args:
        more: metadata by key, `{}` for the architecture's name; None takes a key's place.
        tensors: further ones.

    """
    model = AutoModelForCausalLM.from_pretrained(source)
    config = model.config
    writer = gguf.GGUFWriter(path, config.model_type)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    for key, value in (more or {}).items():
        _add(writer, key.format(config.model_type), value)
    _add_tokenizer(writer, tokenizer, pre)
    _add_weights(writer, model, blocks)
    for name, array in (tensors or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    else:
        writer.add_float32(key, value)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast, pre: str) -> None:
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {one["content"] for one in content["added_tokens"]}
    tokens = sorted(content["model"]["vocab"], key=content["model"]["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([_CONTROL if token in special else _NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in content["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)


def _add_weights(writer: gguf.GGUFWriter, model: PreTrainedModel, blocks: gguf.GGMLQuantizationType) -> None:
    config: Any = model.config
    names = gguf.get_tensor_name_map(ARCHES[config.model_type], config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        array = parameter.detach().float().numpy()
        if config.model_type == "llama" and ("q_proj" in name or "k_proj" in name):
            array = _interleaved(array, config.num_attention_heads if "q_proj" in name else config.num_key_value_heads)
        stored = blocks if array.ndim == 2 and array.shape[1] % 32 == 0 else gguf.GGMLQuantizationType.F32
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert found is not None, name
        writer.add_tensor(found, gguf.quants.quantize(np.ascontiguousarray(array), stored), raw_dtype=stored)


def _interleaved(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a head as llama.cpp rotates them: in pairs, where transformers rotates halves."""
    return array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
