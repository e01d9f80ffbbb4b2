"""Decode steps by flash-attn's `flash_attn_with_kvcache`, where that package is installed.

The kernel reads each row's keys and values up to the row's own length and stops there, where SDPA with a mask reads the
whole bucket. It enters through transformers' attention interface under a name of ours, and takes a forward only when
that says where each row stands (`slot_lengths`) and holds one position per row; prompts, scoring and learning go on
through SDPA. Which models it can serve is decided here once, at load; that its logits are right is proven by
`app.engine.lane.Lane.prove` like every model's.

Axes: B rows, G query heads, H key-value heads, C positions per forward, M positions in view, D head size.
"""

import importlib.util
import logging
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from app.decoder.anatomy import Anatomy
from training.models.policy import Policy

Kernel = Callable[..., Tensor]  # `flash_attn.flash_attn_with_kvcache`

_LOG = logging.getLogger(__name__)
_NAME = "lepo_slots"
_DTYPES = (torch.bfloat16, torch.float16)
_LARGEST_HEAD = 256  # and a multiple of 8


def choose(policy: Policy, anatomy: Anatomy, asked: Literal["auto", "sdpa", "flash"]) -> bool:
    """Let a model's decode steps run by flash-attn where that is asked for, or possible when "auto".

    Returns:
        whether they do.

    Raises:
        ValueError: "flash" was asked for and cannot be had; the message says why.

    """
    if asked == "sdpa":
        return False
    obstacle = _obstacle(policy, anatomy)
    kernel = _kernel() if obstacle is None else None
    if kernel is not None:
        use(policy.model, kernel)
        return True
    obstacle = obstacle or "the package flash-attn cannot be imported; install one built for this torch and CUDA"
    if asked == "flash":
        raise ValueError(f"LEPO_ATTENTION=flash: {obstacle}, or set LEPO_ATTENTION=sdpa")
    _LOG.info("attention by SDPA: %s", obstacle)
    return False


def use(model: PreTrainedModel, kernel: Kernel) -> None:
    """Make a model's decode steps call `kernel`; everything else stays with SDPA."""

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        slot_lengths: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend as transformers asks: query [B, G, C, D], keys and values [B, H, M, D]; gives [B, C, G, D]."""
        if slot_lengths is None or query.shape[2] != 1:
            given: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
            return given
        window = options.get("sliding_window")
        attended_BCGD = kernel(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            cache_seqlens=slot_lengths.to(query.device),
            softmax_scale=options.get("scaling"),
            causal=True,
            window_size=(-1, -1) if window is None else (window - 1, 0),
        )
        return attended_BCGD, None

    AttentionInterface.register(_NAME, attend)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    model.set_attn_implementation(_NAME)


def wants_lengths(model: PreTrainedModel) -> bool:
    """Whether a model's decode steps are to be told how many positions each row has."""
    return bool(model.config.get_text_config(decoder=True)._attn_implementation == _NAME)


def _obstacle(policy: Policy, anatomy: Anatomy) -> str | None:
    """Say what keeps a model from flash-attn; None when nothing does."""
    implementation = policy.model.config.get_text_config(decoder=True)._attn_implementation
    heads = {plane.size for layer in anatomy.layers for plane in (layer.keys, layer.values)}
    same = all(layer.keys == layer.values for layer in anatomy.layers)
    if policy.device.type != "cuda":
        return "the model is not on a CUDA device"
    if policy.dtype not in _DTYPES:
        return f"the weights are {str(policy.dtype).removeprefix('torch.')}, not bfloat16 (LEPO_DTYPE)"
    if implementation not in ("sdpa", _NAME):
        return f"the model attends by '{implementation}', which flash-attn cannot stand in for"
    if not same or any(size > _LARGEST_HEAD or size % 8 for size in heads):
        return f"heads of size {sorted(heads)} are not served (up to {_LARGEST_HEAD}, in multiples of 8)"
    return None


def _kernel() -> Kernel | None:
    """Import flash-attn, only now and only if it is there; one that is broken counts as absent."""
    if importlib.util.find_spec("flash_attn") is None:
        return None
    try:
        found: Kernel = importlib.import_module("flash_attn").flash_attn_with_kvcache
    except (ImportError, AttributeError, OSError) as error:
        _LOG.warning("flash-attn is installed but does not load: %s", error)
        return None
    return found
