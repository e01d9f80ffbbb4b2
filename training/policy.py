"""A policy: a stock Hugging Face causal LM with its tokenizer, its version and the tokens that end an answer.

The loading path is `from_pretrained` with safetensors and no remote code; nothing here is subclassed per architecture.
What a stock model must have for latent reasoning (a causal head, `inputs_embeds`, one embedding per token) is checked
at load, where the message can still say what to do. Leaves out publishing (`training.checkpoint`) and serving.
"""

import hashlib
import importlib.util
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.configuration_utils import PreTrainedConfig

from training.in_use import reading

DTYPES = (torch.float32, torch.bfloat16, torch.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """The weights that answer, and what reads their output.

    Example: `load_policy("Qwen/Qwen2.5-0.5B-Instruct", version=0, dtype=torch.bfloat16, device="cuda:0")`.
    """

    model: PreTrainedModel  # in eval mode, on its device
    tokenizer: PreTrainedTokenizerBase  # real, fast where the model has one
    version: int  # of the weights, >= 0; stands on everything sampled
    eos_ids: frozenset[int]  # ids that end an answer; empty for a model that names none

    def __post_init__(self) -> None:
        if self.version < 0:
            raise ValueError(f"version must be 0 or more, got {self.version}")

    @property
    def device(self) -> torch.device:
        """Device of the input embedding: where prompts and latents enter."""
        return embedding(self).weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return embedding(self).weight.dtype


def load_policy(
    source: str | Path, *, version: int, dtype: torch.dtype, device: str, revision: str | None = None
) -> Policy:
    """Load a model and its tokenizer, ready to answer.

    Args:
        source: a local directory in the Hugging Face layout, or a hub name.
        version: the version these weights are known by, >= 0.
        dtype: torch.float32, torch.bfloat16, or torch.float64 (for exact checks).
        device: "auto" (the first GPU if there is one), "cpu", "cuda", "cuda:N", or "balanced" (over all devices by
            accelerate).
        revision: of a hub name: branch, tag or commit.

    Raises:
        ValueError: the source is missing or incomplete, has no tokenizer, is no causal LM, does not take
            `inputs_embeds`, or the device or dtype is not to be had.

    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be float32 or bfloat16 (float64 for checks), got {dtype}")
    placement = placed(device)
    where = _resolved(source)
    with reading(Path(where)):
        config = _config(where, revision)
        tokenizer = _tokenizer(where, revision)
        model = _model(where, revision, config, dtype, placement)
    rows = cast("nn.Embedding", model.get_input_embeddings()).weight.shape[0]
    if len(tokenizer) > rows:
        raise ValueError(f"the tokenizer of '{where}' has {len(tokenizer)} ids but the model embeds only {rows}")
    model.train(mode=False)
    return Policy(model, tokenizer, version, eos_ids(model, tokenizer))


def embedding(policy: Policy) -> nn.Embedding:
    """Input embedding of the policy; latents are mixed from its rows."""
    return cast("nn.Embedding", policy.model.get_input_embeddings())


def eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that end an answer: the generation config's (else the config's) and the tokenizer's."""
    generation = getattr(model, "generation_config", None)
    named = getattr(generation, "eos_token_id", None)
    if named is None:
        named = getattr(model.config.get_text_config(), "eos_token_id", None)
    ids = {named} if isinstance(named, int) else set(named or ())
    if isinstance(tokenizer.eos_token_id, int):
        ids.add(tokenizer.eos_token_id)
    return frozenset(ids)


def fingerprint(model: nn.Module) -> str:
    """SHA-256 (hex) of the parameters: names, shapes, dtypes and bytes in name order; a tied one counts once.

    It names the live weights: equal on every device, and to the one in the checkpoint they came from.
    """
    return digest(sorted(model.named_parameters(), key=lambda named: named[0]))


def digest(named: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 (hex) of tensors in the order given: name, dtype, shape and bytes of each."""
    sha = hashlib.sha256()
    for name, tensor in named:
        sha.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().view(-1)
        sha.update(flat.view(torch.uint8).numpy().data)
    return sha.hexdigest()


def longest(config: PreTrainedConfig) -> int | None:
    """Positions up to which a position means the same whatever else is in the batch; None when the model names no end.

    LongRoPE (Phi-3.5, Phi-4-mini; arXiv:2402.13753) turns all positions by other factors once a row of the forward is
    longer than the model was first made for: an answer would depend on its neighbours, and a replay would not be what
    was sampled. Within that first length there is one set of factors.
    """
    text = config.get_text_config(decoder=True)
    positions: int | None = getattr(text, "max_position_embeddings", None)
    rope = getattr(text, "rope_parameters", None) or {}
    for one in (rope, *(value for value in rope.values() if isinstance(value, dict))):  # of all layers, or by kind
        if one.get("rope_type") == "longrope":
            first = int(one["original_max_position_embeddings"])
            positions = first if positions is None else min(first, positions)
    return positions


def placed(device: str) -> str:
    """Check a device setting and resolve "auto": returns "cpu", "cuda:N" or "balanced".

    Raises:
        ValueError: an unknown word, a GPU that is not there, or "balanced" without accelerate.

    """
    if device == "balanced":
        if importlib.util.find_spec("accelerate") is None:
            raise ValueError("device 'balanced' needs accelerate: pip install 'lepo-service[large]'")
        return device
    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device
    kind, _, index = device.partition(":")
    if kind != "cuda" or not (index.isdecimal() or device == "cuda"):
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'balanced', got {device!r}")
    present = torch.cuda.device_count()
    if int(index or 0) >= present:
        raise ValueError(f"device {device!r} is not there: {present} CUDA devices are visible")
    return f"cuda:{int(index or 0)}"


def require_latent_seam(model: nn.Module, config: PreTrainedConfig) -> None:
    """Refuse a model whose next input cannot be a mixture of embeddings.

    Raises:
        ValueError: `forward` takes no `inputs_embeds`, or layers look up further embeddings by token id.

    """
    if "inputs_embeds" not in inspect.signature(model.forward).parameters:
        raise ValueError(
            f"{type(model).__name__} takes no inputs_embeds, which latent steps need; choose another model"
        )
    if getattr(config.get_text_config(), "hidden_size_per_layer_input", 0):
        raise ValueError(
            f"{type(model).__name__} looks up per-layer embeddings by token id, which a latent step does not have; "
            "choose another model"
        )


def _refuse_gguf(source: str | Path) -> None:
    raise ValueError(
        f"'{source}' is GGUF, rounded weights for llama.cpp, which cannot be learned from here: give the model they "
        "were made of, in the Hugging Face layout with safetensors"
    )


def _resolved(source: str | Path) -> str:
    """Tell a directory from a hub name, so that a mistyped path is not looked up on the hub."""
    path = Path(source).expanduser()
    whole = (path / "config.json").is_file()
    if path.suffix.lower() == ".gguf" or (not whole and any(path.glob("*.gguf"))):
        _refuse_gguf(source)
    if path.is_dir():
        if not whole:
            raise ValueError(f"'{path}' holds no config.json: give a directory in the Hugging Face layout")
        return str(path)
    looks_local = isinstance(source, Path) or source.startswith(("/", ".", "~")) or source.count("/") > 1
    if looks_local or path.exists():
        raise ValueError(f"no model directory at '{source}': give an existing directory or a hub name")
    return str(source)


def _config(where: str, revision: str | None) -> PreTrainedConfig:
    try:
        config = AutoConfig.from_pretrained(where, revision=revision, trust_remote_code=False)
    except OSError as error:
        if where.lower().endswith("gguf"):  # as such repositories of the hub are named
            _refuse_gguf(where)
        raise ValueError(f"cannot open the model '{where}': {error}") from error
    masked = type(config) in AutoModelForMaskedLM._model_mapping and not getattr(config, "is_decoder", True)
    if masked or getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"'{where}' is an encoder model ({config.model_type}); a causal language model is needed")
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ValueError(f"'{where}' ({config.model_type}) has no causal language model in transformers")
    return cast("PreTrainedConfig", config)


def _tokenizer(where: str, revision: str | None) -> PreTrainedTokenizerBase:
    """Load the tokenizer; a directory without its files would give an empty one without a word."""
    try:
        loaded = AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=False)
    except OSError as error:
        raise ValueError(f"cannot open the tokenizer of '{where}': {error}") from error
    tokenizer = cast("PreTrainedTokenizerBase", loaded)
    names = set(tokenizer.vocab_files_names.values()) | {"tokenizer.json"}
    if Path(where).is_dir() and not any((Path(where) / name).is_file() for name in names):
        raise ValueError(f"'{where}' has no tokenizer: save one beside the model (tokenizer.save_pretrained)")
    return tokenizer


def _attention(config: PreTrainedConfig) -> str:
    """Choose torch's attention, or the model's own where that knows something torch does not (caps, sinks)."""
    known: Any = AutoModelForCausalLM._model_mapping[type(config)]
    return "sdpa" if known._supports_sdpa else "eager"


def _model(
    where: str, revision: str | None, config: PreTrainedConfig, dtype: torch.dtype, placement: str
) -> PreTrainedModel:
    """Load the weights, every one of them from the files."""
    options: dict[str, Any] = {"device_map": "auto"} if placement == "balanced" else {}
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            where,
            revision=revision,
            config=config,
            dtype=dtype,
            attn_implementation=_attention(config),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except OSError as error:
        raise ValueError(f"cannot open safetensors weights of '{where}': {error}") from error
    model, loading = cast("tuple[PreTrainedModel, dict[str, Any]]", loaded)
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ValueError(f"'{where}' lacks the weights {missing[:4]}: the checkpoint is incomplete or of another model")
    require_latent_seam(model, config)
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(f"'{where}' does not fit the memory of the devices: use more of them or a smaller dtype")
    if placement != "balanced":
        cast("nn.Module", model).to(placement)
    return model
