"""A policy: a stock Hugging Face causal LM with its tokenizer, its version and the tokens that end an answer.

The loading path is `from_pretrained` with safetensors and no remote code; nothing here is subclassed per architecture.
What a stock model must have for latent reasoning (a causal head, `inputs_embeds`, one embedding per token) is checked
at load, where the message can still say what to do. A GGUF file comes in by the same door (`training.models.gguf`).
Leaves out publishing (`training.models.checkpoint`) and serving.
"""

import importlib.util
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.configuration_utils import PreTrainedConfig

from training.models.gguf import GgufFile, is_gguf
from training.models.in_use import reading
from training.models.quantised import dequantised, plain
from training.models.tree import root_of

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
        source: a local directory in the Hugging Face layout, a GGUF file, or a hub name.
        version: the version these weights are known by, >= 0.
        dtype: torch.float32, torch.bfloat16, or torch.float64 (for exact checks).
        device: "auto" (the first GPU if there is one), "cpu", "cuda", "cuda:N", or "balanced" (over all devices by
            accelerate).
        revision: of a hub name: branch, tag or commit.

    Raises:
        ValueError: the source is missing or incomplete, has no tokenizer, is no causal LM, does not take
            `inputs_embeds`, is quantised in a way that cannot be undone or a GGUF file that transformers would not
            read as it is meant, or the device or dtype is not to be had.

    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be float32 or bfloat16 (float64 for checks), got {dtype}")
    placement = placed(device)
    if is_gguf(source):
        where, model, tokenizer = _from_gguf(GgufFile.open(Path(source)), dtype, placement)
    else:
        where = resolved(source)
        with reading(Path(where)):
            config = causal_config(where, revision)
            tokenizer = load_tokenizer(where, revision)
            model = _model(where, {"revision": revision, "use_safetensors": True}, config, dtype, placement)
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
    """SHA-256 (hex) of the parameters: names, shapes, dtypes and bytes, as a tree; a tied one counts once.

    It names the live weights: equal on every device, and to the one in the checkpoint they came from.
    """
    return root_of(dict(model.named_parameters()))


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


def attention_of(config: PreTrainedConfig) -> str:
    """Choose how a model attends: by SDPA, or as written out (eager) where its class has no SDPA (caps, sinks)."""
    kind: Any = AutoModelForCausalLM._model_mapping[type(config)]
    return "sdpa" if kind._supports_sdpa else "eager"


def resolved(source: str | Path) -> str:
    """Tell a directory from a hub name, so that a mistyped path is not looked up on the hub."""
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            other = ", or name the GGUF file in it" if any(path.glob("*.gguf")) else ""
            raise ValueError(f"'{path}' holds no config.json: give a directory in the Hugging Face layout{other}")
        return str(path)
    looks_local = isinstance(source, Path) or source.startswith(("/", ".", "~")) or source.count("/") > 1
    if looks_local or path.exists():
        raise ValueError(f"no model directory at '{source}': give an existing directory or a hub name")
    return str(source)


def causal_config(where: str, revision: str | None) -> PreTrainedConfig:
    """Read the configuration of a causal LM.

    Raises:
        ValueError: there is none, or it is of another kind of model.

    """
    try:
        config = AutoConfig.from_pretrained(where, revision=revision, trust_remote_code=False)
    except OSError as error:
        raise ValueError(f"cannot open the model '{where}': {error}") from error
    except StrictDataclassError as error:
        raise ValueError(f"the config.json of '{where}' contradicts itself: {error}") from error
    except KeyError as error:
        raise ValueError(f"'{where}' is of a kind that this transformers does not know: {error}") from error
    require_causal(where, config)
    return cast("PreTrainedConfig", config)


def require_causal(where: str, config: PreTrainedConfig) -> None:
    """Refuse the configuration of an encoder, or of anything else that is no causal LM.

    Raises:
        ValueError: it is one.

    """
    masked = type(config) in AutoModelForMaskedLM._model_mapping and not getattr(config, "is_decoder", True)
    if masked or getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"'{where}' is an encoder model ({config.model_type}); a causal language model is needed")
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ValueError(f"'{where}' ({config.model_type}) has no causal language model in transformers")


def load_tokenizer(where: str, revision: str | None) -> PreTrainedTokenizerBase:
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


def _from_gguf(
    file: GgufFile, dtype: torch.dtype, placement: str
) -> tuple[str, PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a GGUF file, its weights unpacked; one that transformers would read wrongly is refused."""
    config = file.config()
    require_causal(str(file.path), config)
    tokenizer = file.tokenizer(config)
    model = _model(str(file.path.parent), {"gguf_file": file.path.name}, config, dtype, placement)
    file.settle(model)
    return str(file.path), model, tokenizer


def _model(
    where: str, source: dict[str, Any], config: PreTrainedConfig, dtype: torch.dtype, placement: str
) -> PreTrainedModel:
    """Load the weights, every one of them from the files, unpacked where they are quantised."""
    options: dict[str, Any] = {"device_map": "auto"} if placement == "balanced" else {}
    if dtype == torch.float64:  # experts are grouped by a kernel without it
        options["experts_implementation"] = "eager"
    options |= dequantised(where, config, gguf="gguf_file" in source)
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            where,
            config=config,
            dtype=dtype,
            attn_implementation=attention_of(config),
            trust_remote_code=False,
            output_loading_info=True,
            **source,
            **options,
        )
    except OSError as error:
        raise ValueError(f"cannot open safetensors weights of '{where}': {error}") from error
    model, loading = cast("tuple[PreTrainedModel, dict[str, Any]]", loaded)
    plain(model)
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ValueError(f"'{where}' lacks the weights {missing[:4]}: the checkpoint is incomplete or of another model")
    require_latent_seam(model, config)
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(f"'{where}' does not fit the memory of the devices: use more of them or a smaller dtype")
    if placement != "balanced":
        cast("nn.Module", model).to(placement)
    return model
