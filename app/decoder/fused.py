"""The forward of the Llama family written out for a GPU: few operations per layer, keys and values read in place.

The stock forward starts some forty operations per layer, and under a mask repeats keys and values once per query head
of a group. Here a layer has one product for query, key and value, one for gate and up, torch's own norm, one rotation
of queries and keys together, products added into the residual in place, and attention over grouped heads: about twenty
operations, or ten at a decode step where Triton can be had (`app.decoder.kernels`).

The model keeps its parameters: those that share a product lie behind one another in one buffer and are slices of it, so
a swap writes to them, a fingerprint reads them, and nothing is ever packed again. What the engine serves is the same
function: `app.engine.lane.Lane.prove` compares it with the stock forward whenever weights are taken. Covers what
`app.decoder.lean` covers, on one device. Leaves out CPUs, which want other operations (`lean`, `packed`).

Axes: B rows, C positions per forward, D hidden size, G query heads, H key-value heads, R = G / H, M positions in view,
S head size, N outputs, K inputs, I inner size.
"""

import importlib.util
import logging
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from app.decoder.cache import PagedCache
from app.decoder.lean import Hidden, Logits, can_lean, kinds, rotated
from app.decoder.masks import SLIDING, Mask

_LOG = logging.getLogger(__name__)
_HALVES = (torch.bfloat16, torch.float16)


def can_fuse(model: PreTrainedModel) -> bool:
    """Whether a model is of the family and lies on one CUDA device in one dtype, untouched by hooks.

    Not in float64, which is for exact checks: the stock norm works in float32 there, and this one would not.
    """
    hooked = any(hasattr(module, "_hf_hook") for module in model.modules())
    places = {(parameter.device, parameter.dtype) for parameter in model.parameters()}
    on_cuda = {device.type for device, _ in places} == {"cuda"}
    wide = any(dtype == torch.float64 for _, dtype in places)
    return on_cuda and len(places) == 1 and not wide and not hooked and can_lean(model)


@cache
def kernels_on(
    device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int], *, normed: bool
) -> ModuleType | None:
    """Give the kernels if they can be compiled for heads of a shape; tried once. None leaves torch's operations.

    Args:
        device: of the model.
        dtype: of its weights.
        shape: G, H and S.
        normed: whether its heads are.

    """
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return None
    try:
        kernels = importlib.import_module("app.decoder.kernels")
        kernels.try_out(device, dtype, shape, normed=normed)
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:  # no compiler, an old driver
        _LOG.warning("Triton is installed but its kernels do not run, steps take more operations: %s", error)
        return None
    return kernels


class FusedDecoder:
    """A decoder with its head; a view of a stock model."""

    def __init__(self, model: PreTrainedModel) -> None:
        stock: Any = model
        attention = stock.base_model.layers[0].self_attn
        sizes = [layer.out_features // attention.head_dim for layer in (attention.q_proj, attention.k_proj)]
        shape = (sizes[0], sizes[1], attention.head_dim)
        kernels = kernels_on(stock.device, stock.dtype, shape, normed=hasattr(attention, "q_norm"))
        self.base_model = FusedBody(stock.base_model, kernels)
        self._head = stock.lm_head

    def repack(self) -> None:
        """Nothing to do: products read the parameters where they lie."""

    def __call__(self, **inputs: Any) -> Logits:
        """Logits [B, 1, V] after the last position; inputs as `FusedBody` takes them."""
        return Logits(self._head(self.base_model(**inputs).last_hidden_state[:, -1:]))


class FusedBody:
    """A decoder without its head."""

    def __init__(self, stock: Any, kernels: ModuleType | None) -> None:
        self._rotary = stock.rotary_emb
        window = getattr(stock.config, "sliding_window", None)
        self._layers = [
            FusedLayer(layer, kind, kernels, window if kind == SLIDING else None)
            for layer, kind in zip(stock.layers, kinds(stock.config), strict=True)
        ]
        self._steps_by_kernels = kernels is not None
        self._norm = stock.norm
        self._group: int = stock.config.num_attention_heads // stock.config.num_key_value_heads  # R

    def __call__(
        self,
        *,
        inputs_embeds: Tensor,
        attention_mask: Mask,
        position_ids: Tensor,
        past_key_values: PagedCache,
        **_: Any,
    ) -> Hidden:
        """Hidden states [B, C, D] of inputs [B, C, D] at positions [B, C]; keys and values go to the cache."""
        cos_BCS, sin_BCS = self._rotary(inputs_embeds, position_ids)
        half = sin_BCS.shape[-1] // 2
        signed_BCS = torch.cat((-sin_BCS[..., :half], sin_BCS[..., half:]), dim=-1)
        hidden_BCD = inputs_embeds.clone()  # layers add to it in place
        if self._steps_by_kernels and hidden_BCD.shape[1] == 1:
            for layer in self._layers:
                layer.step(hidden_BCD[:, 0], cos_BCS[:, 0], signed_BCS[:, 0], past_key_values)
            return Hidden(_normed(hidden_BCD, self._norm))
        turn = cos_BCS[:, :, None], signed_BCS[:, :, None]
        by_kind = attention_mask if isinstance(attention_mask, Mapping) else {}
        folded = {kind: _folded(mask, self._group) for kind, mask in by_kind.items()}
        same = None if by_kind else _folded(attention_mask, self._group)  # type: ignore[arg-type]
        for layer in self._layers:
            layer(hidden_BCD, turn, folded[layer.kind] if same is None else same, past_key_values)
        return Hidden(_normed(hidden_BCD, self._norm))


class FusedLayer:
    """One layer: attention and the gated product, each on normed inputs and added to them."""

    def __init__(self, stock: Any, kind: str, kernels: ModuleType | None, window: int | None) -> None:
        attention, gated = stock.self_attn, stock.mlp
        self.kind = kind  # of attention: FULL, SLIDING
        self._kernels: Any = kernels
        self._window = window  # positions it sees; None: all
        self._index: int = attention.layer_idx
        self._size: int = attention.head_dim
        self._keys: int = attention.k_proj.out_features // self._size  # H
        self._turned: int = attention.q_proj.out_features // self._size + self._keys  # G + H
        self._scaling: float = attention.scaling
        self._before, self._between = stock.input_layernorm, stock.post_attention_layernorm
        self._head_norms = (attention.q_norm, attention.k_norm) if hasattr(attention, "q_norm") else None
        self._project = Joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self._gate_up = Joined(gated.gate_proj, gated.up_proj)
        self._out, self._down = attention.o_proj, gated.down_proj

    def __call__(self, hidden_BCD: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor, cache: PagedCache) -> None:
        """Add this layer's share to hidden states [B, C, D], in place."""
        heads_BCNS = self._project(_normed(hidden_BCD, self._before)).view(*hidden_BCD.shape[:2], -1, self._size)
        turned_BCNS = rotated(self._head_normed(heads_BCNS[:, :, : self._turned]), *turn)
        queries_BCGS = turned_BCNS[:, :, : -self._keys]
        keys_BCHS, values_BCHS = turned_BCNS[:, :, -self._keys :], heads_BCNS[:, :, self._turned :]
        keys_BHMS, values_BHMS = cache.update(keys_BCHS.transpose(1, 2), values_BCHS.transpose(1, 2), self._index)
        attend = attended_by_one if hidden_BCD.shape[1] == 1 else attended_by_many
        _add(hidden_BCD, self._out, attend(queries_BCGS, keys_BHMS, values_BHMS, mask, self._scaling))
        gate_BCI, up_BCI = self._gate_up(_normed(hidden_BCD, self._between)).chunk(2, dim=-1)
        _add(hidden_BCD, self._down, functional.silu(gate_BCI).mul_(up_BCI))

    def step(self, hidden_BD: Tensor, cos_BS: Tensor, sin_BS: Tensor, cache: PagedCache) -> None:
        """Do the same for one position per row, by kernels; each row sees its own window, so there is no mask."""
        kernels, layer = self._kernels, cache.paged_layers[self._index]
        norms = None
        if self._head_norms is not None:
            of_queries, of_keys = self._head_norms
            norms = of_queries.weight, of_keys.weight, of_queries.variance_epsilon
        heads_BX = self._project(_normed(hidden_BD, self._before))
        queries_BGS = kernels.turned(heads_BX, cos_BS, sin_BS, layer, norms)
        window = kernels.EVERYTHING if self._window is None else self._window
        seen_BX = kernels.attended(queries_BGS, layer, self._scaling, window)
        _add(hidden_BD, self._out, seen_BX)
        _add(hidden_BD, self._down, kernels.gated(self._gate_up(_normed(hidden_BD, self._between))))

    def _head_normed(self, heads_BCNS: Tensor) -> Tensor:
        """Norm each head of queries and keys, where the model does."""
        if self._head_norms is None:
            return heads_BCNS
        of_queries, of_keys = self._head_norms
        queries_BCGS, keys_BCHS = heads_BCNS[:, :, : -self._keys], heads_BCNS[:, :, -self._keys :]
        return torch.cat((_normed(queries_BCGS, of_queries), _normed(keys_BCHS, of_keys)), dim=2)


class Joined:
    """The product of linear layers with the same inputs, by weights that lie behind one another; outputs likewise."""

    def __init__(self, *layers: nn.Linear) -> None:
        self._weight_NK = join([layer.weight for layer in layers])
        biases = [layer.bias for layer in layers if layer.bias is not None]
        self._bias_N = join(biases) if biases else None

    def __call__(self, input: Tensor) -> Tensor:  # noqa: A002, the name nn.Linear gives it
        """Product [..., K] -> [..., N]."""
        return functional.linear(input, self._weight_NK, self._bias_N)


@torch.inference_mode(mode=False)  # a buffer of inference could never learn
@torch.no_grad()
def join(parameters: Sequence[Tensor]) -> Tensor:
    """Make parameters slices of one buffer, in their order, and give the buffer; those that are so already stay."""
    joined = _as_one(parameters)
    if joined is None:
        joined = torch.cat([parameter.detach() for parameter in parameters])
        parts = joined.split_with_sizes([len(parameter) for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.data = part
    return joined


def _as_one(parameters: Sequence[Tensor]) -> Tensor | None:
    """View of parameters that lie behind one another in one storage; None when they do not."""
    first = parameters[0].detach()
    at = first.storage_offset()
    for parameter in parameters:
        same = parameter.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not (same and parameter.is_contiguous() and parameter.storage_offset() == at):
            return None
        at += parameter.numel()
    return first.as_strided((sum(map(len, parameters)), *first.shape[1:]), first.stride(), first.storage_offset())


def attended_by_one(
    queries_B1GS: Tensor, keys_BHMS: Tensor, values_BHMS: Tensor, mask_BHRM: Tensor, scaling: float
) -> Tensor:
    """Attention [B, 1, G * S] of a single query per row: two batched products over grouped heads, scores in float32."""
    rows, _, queries, size = queries_B1GS.shape
    keys = keys_BHMS.shape[1]
    grouped_NRS = queries_B1GS.reshape(rows * keys, queries // keys, size)
    scores_NRM = _scores(grouped_NRS, keys_BHMS.flatten(0, 1).transpose(1, 2))
    scores_BHRM = torch.add(mask_BHRM, scores_NRM.view(rows, keys, queries // keys, -1), alpha=scaling)
    weights_NRM = scores_BHRM.softmax(-1).to(values_BHMS.dtype).view_as(scores_NRM)
    return torch.bmm(weights_NRM, values_BHMS.flatten(0, 1)).view(rows, 1, -1)


def attended_by_many(
    queries_BCGS: Tensor, keys_BHMS: Tensor, values_BHMS: Tensor, mask_B1XM: Tensor, scaling: float
) -> Tensor:
    """Attention [B, C, G * S] of chunks; the heads of a group stand behind one another as if they were positions."""
    rows, count, queries, size = queries_BCGS.shape
    keys = keys_BHMS.shape[1]
    grouped_BHRCS = queries_BCGS.view(rows, count, keys, -1, size).permute(0, 2, 3, 1, 4)
    grouped_BHXS = grouped_BHRCS.reshape(rows, keys, -1, size)
    seen_BHXS = functional.scaled_dot_product_attention(
        grouped_BHXS, keys_BHMS, values_BHMS, mask_B1XM.expand(-1, keys, -1, -1), scale=scaling
    )
    seen_BHRCS = seen_BHXS.view(rows, keys, queries // keys, count, size)
    return seen_BHRCS.permute(0, 3, 1, 2, 4).reshape(rows, count, -1)


def _scores(queries_NRS: Tensor, keys_NSM: Tensor) -> Tensor:
    """Products of queries and keys, never rounded to half precision: a softmax would show it."""
    if queries_NRS.dtype not in _HALVES:
        return torch.bmm(queries_NRS, keys_NSM)
    if queries_NRS.device.type == "cuda":
        return torch.bmm(queries_NRS, keys_NSM, out_dtype=torch.float32)
    return torch.bmm(queries_NRS.float(), keys_NSM.float())


def _folded(mask_B1CM: Tensor, group: int) -> Tensor:
    """Mask of a group's heads: as it is for one query per row, [B, 1, R * C, M] for chunks."""
    rows, _, count, length = mask_B1CM.shape
    if count == 1:
        return mask_B1CM
    return mask_B1CM.expand(rows, group, count, length).reshape(rows, 1, group * count, length)


def _add(hidden: Tensor, layer: Any, input: Tensor) -> None:  # noqa: A002, the name nn.Linear gives it
    """Add a linear layer's product [..., K] -> [..., D] to the hidden states, in place."""
    flat_XD, flat_XK = hidden.view(-1, hidden.shape[-1]), input.view(-1, input.shape[-1])
    flat_XD.addmm_(flat_XK, layer.weight.t())
    if layer.bias is not None:
        flat_XD.add_(layer.bias)


def _normed(hidden: Tensor, norm: Any) -> Tensor:
    """Root mean square norm over the last axis, by the weights of a stock module."""
    return functional.rms_norm(hidden, hidden.shape[-1:], norm.weight, norm.variance_epsilon)
