"""Quantised checkpoints: unpacked while they are loaded, or refused.

What learns and is published are plain weights: a packed one has no gradient, and a checkpoint of it could not be
compared with the one before. So GGUF blocks and MXFP4 (as GPT-OSS is published) are unpacked to the dtype that was
asked for, at its full size in memory; what transformers cannot unpack while loading is refused before it is read.
"""

from typing import Any

from transformers import PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils.quantization_config import GgufConfig, Mxfp4Config


def dequantised(where: str, config: PreTrainedConfig, *, gguf: bool = False) -> dict[str, Any]:
    """Give the options of `from_pretrained` that unpack a checkpoint; none for one that is not quantised.

    Raises:
        ValueError: it is quantised by a method that is not unpacked.

    """
    if gguf:
        return {"quantization_config": GgufConfig(dequantize=True)}
    method = method_of(config)
    if method is None:
        return {}
    if method != "mxfp4":
        raise ValueError(
            f"'{where}' is quantised ({method}): packed weights cannot learn; give the model's unquantised weights, or "
            "a GGUF file of it"
        )
    return {"quantization_config": Mxfp4Config(dequantize=True)}


def method_of(config: PreTrainedConfig) -> str | None:
    """Name the method a checkpoint is quantised by; None for plain weights."""
    said = getattr(config, "quantization_config", None)
    if said is None:
        return None
    method = said.get("quant_method") if isinstance(said, dict) else said.quant_method
    return str(getattr(method, "value", method))


def plain(model: PreTrainedModel) -> None:
    """Forget that unpacked weights were ever quantised, so that they can be saved and moved like any others."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(model)
