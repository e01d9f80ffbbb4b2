"""The outline of a model: its stock class made on torch's `meta` device, where tensors have shapes and no bytes.

So what the engine would see of a model, and what learning would hold, is read off the very modules that would be
loaded, whatever their size, from the configuration alone. What files hold is read from their headers. Leaves out the
numbers in the weights, and so every proof that needs them: those are made when the model is loaded.
"""

import copy
import json
import math
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging as transformers_logging

from app.decoder.anatomy import Anatomy, UnsupportedModel, examine
from training.models.gguf import GgufFile, is_gguf
from training.models.lora import experts_of
from training.models.policy import Policy, attention_of, causal_config, require_causal, require_latent_seam, resolved
from training.models.quantised import dequantised, method_of
from training.models.rope import ropes

_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # of what safetensors hold, where they hold plain weights


@dataclass(frozen=True, slots=True)
class Outline:
    """What there is to know of a model without its weights."""

    model: PreTrainedModel  # on meta, bfloat16
    anatomy: Anatomy | None  # as the engine sees it; None where it cannot serve the model
    refusal: str | None  # why it cannot
    held: int | None  # weights in the files; None where they are not looked at
    files: str  # what kind of files, in words
    template: bool | None  # whether there is a chat template; None: not looked at

    @property
    def parameters(self) -> int:
        """Weights that the model has, a tied one once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def attention(self) -> str:
        """How it attends: sdpa or eager."""
        return str(self.model.config.get_text_config()._attn_implementation)

    @property
    def linears(self) -> list[nn.Linear]:
        """Linear layers, the head among them."""
        return [module for module in self.model.modules() if type(module) is nn.Linear]

    @property
    def adapted(self) -> list[nn.Linear]:
        """Linear layers that adapters go on: all but the head (`training.models.lora`)."""
        return [module for module in self.model.base_model.modules() if isinstance(module, nn.Linear)]

    @property
    def experts(self) -> list[nn.Parameter]:
        """Weights of all experts of a mixture, [E, ...], which adapters go on too."""
        return list(experts_of(self.model.base_model).values())


def outline(source: str, revision: str | None) -> Outline:
    """Look at a model.

    Raises:
        ValueError: the door would refuse it; the message says why.

    """
    if is_gguf(source):
        return _of_gguf(GgufFile.open(Path(source)))
    where = resolved(source)
    config = causal_config(where, revision)
    method = method_of(config)
    dequantised(where, config)
    directory = Path(where)
    if not directory.is_dir():
        return made(config, held=None, files="a hub name: its files are looked at when they are loaded", template=None)
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise ValueError(f"'{where}' has no safetensors weights: save it by save_pretrained and give that directory")
    held = None if method else sum(held_in(file) for file in files)
    words = f"{len(files)} safetensors" + (f", {method}, unpacked when they are loaded" if method else "")
    return made(config, held=held, files=words, template=has_template(directory))


def _of_gguf(file: GgufFile) -> Outline:
    config = file.config()
    require_causal(str(file.path), config)
    types = {str(one.ggml_type) for one in file.header.tensors}
    words = f"GGUF ({file.header.architecture}), {len(types)} types of blocks, unpacked when it is loaded"
    return made(config, held=file.parameters, files=words, template="tokenizer.chat_template" in file.metadata)


def made(config: PreTrainedConfig, *, held: int | None, files: str, template: bool | None) -> Outline:
    """Make the modules of a configuration and look at them; the rest is as in `Outline`.

    Raises:
        ValueError: the files hold less than the model has.

    """
    shaped = copy.deepcopy(config)
    if hasattr(shaped, "quantization_config"):
        del shaped.quantization_config
    for rope in ropes(shaped.get_text_config()):
        if rope.get("rope_type") == "dynamic":
            rope["rope_type"] = "default"  # its frequencies depend on values, its shapes do not
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # advice about files that nobody opens
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                shaped, dtype=torch.bfloat16, attn_implementation=attention_of(config), trust_remote_code=False
            )
    finally:
        transformers_logging.set_verbosity(level)
    model.train(mode=False)
    found = Outline(model, None, None, held, files, template)
    missing = found.parameters - held if held is not None else 0
    if missing > 0:
        kind = type(model).__name__
        raise ValueError(f"the files hold {held:,} of the {found.parameters:,} weights of {kind}: fetch them again")
    try:
        require_latent_seam(model, config)
        return replace(found, anatomy=examine(Policy(model, _NOBODY, 0, frozenset())))
    except (UnsupportedModel, ValueError) as error:
        return replace(found, refusal=str(error))
    except RuntimeError as error:  # an operation that has no shapes without values
        return replace(found, refusal=f"cannot be told without its weights ({error}): load it and see")


_NOBODY: Any = None  # in the tokenizer's place, which nothing here asks


def held_in(file: Path) -> int:
    """Count the weights that a safetensors file holds, from its header.

    Raises:
        ValueError: it is no such file, or cut short.

    """
    with file.open("rb") as opened:
        start = opened.read(8)
        try:
            (length,) = struct.unpack("<Q", start)
            header = json.loads(opened.read(length))
        except (struct.error, ValueError, OverflowError, MemoryError) as error:
            raise ValueError(f"'{file}' is no safetensors file: fetch it again") from error
    header.pop("__metadata__", None)
    ends = max((one["data_offsets"][1] for one in header.values()), default=0)
    if file.stat().st_size < 8 + length + ends:
        raise ValueError(f"'{file}' is cut short: fetch it again")
    return sum(math.prod(one["shape"]) for one in header.values() if one["dtype"] in _SIZES)


def has_template(directory: Path) -> bool:
    """Whether a directory brings a chat template."""
    if (directory / "chat_template.jinja").is_file():
        return True
    config = directory / "tokenizer_config.json"
    return config.is_file() and bool(json.loads(config.read_text(encoding="utf-8")).get("chat_template"))
