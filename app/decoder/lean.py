"""The forward of the Llama family written out, for decode steps on a CPU.

With 8 to 32 rows of a small model the stock forward spends more time between its products than within them: separate
query, key and value products, norms and rotations in many small operations, keys and values repeated per query head.
Here a layer is five products on packed weights (`app.decoder.packed`) with activation, gate and residual taken along,
norms in one pass, and, at a decode step, one walk that rotates, keeps and attends (`app.decoder.paged`). Prompts, and
steps where numba is not installed, attend to a copy of the blocks in view. Of a model in bfloat16 only the products are
in bfloat16: hidden states, keys and values, norms and attention are float32.

A view like `PackedModel`: the stock modules keep the parameters, and `repack` follows them. What the engine serves is
the same function: `app.engine.lane.Lane.prove` compares it with the stock forward whenever weights are taken. Covers
the classes in `_FAMILY`; any other decoder keeps its own forward.

Axes: B rows, C positions per forward, D hidden size, G query heads, H key-value heads, R = G / H, M positions in view,
S head size, N = B * H.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM, MistralForCausalLM, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM

from app.decoder import paged
from app.decoder.cache import PagedCache
from app.decoder.masks import FULL, SLIDING, Mask
from app.decoder.packed import PackedModel, Product, repack_all

_FAMILY = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)


class Hidden(NamedTuple):
    """What a body gives, under the name that transformers gives it."""

    last_hidden_state: Tensor  # [B, C, D]


class Logits(NamedTuple):
    """What a decoder gives, likewise."""

    logits: Tensor  # [B, 1, V]


def view_of(model: PreTrainedModel) -> "LeanDecoder | PackedModel":
    """Make the quickest view there is of a model that `packed.can_pack`."""
    return LeanDecoder(model) if can_lean(model) else PackedModel(model)


def can_lean(model: PreTrainedModel) -> bool:
    """Whether a model is of the family as published: gate by SiLU, whole heads rotated, no attention of its own."""
    config = model.config
    if type(model) not in _FAMILY or config.hidden_act not in ("silu", "swish"):
        return False
    if config._attn_implementation not in ("sdpa", "eager"):
        return False
    body: Any = model.base_model
    device = next(model.parameters()).device
    probe_11D = torch.zeros(1, 1, config.hidden_size, device=device)
    cos_11S, _ = body.rotary_emb(probe_11D, torch.zeros(1, 1, dtype=torch.long, device=device))
    return all(layer.self_attn.head_dim == cos_11S.shape[-1] for layer in body.layers)


class LeanDecoder:
    """A decoder with its head."""

    def __init__(self, model: PreTrainedModel) -> None:
        stock: Any = model
        self.base_model = LeanBody(stock.base_model)
        self._head = Product(stock.lm_head)
        self.repack()

    def repack(self) -> None:
        """Take over the weights as they are now."""
        repack_all([self._head, *self.base_model.products()])

    def __call__(self, **inputs: Any) -> Logits:
        """Logits [B, 1, V] after the last position; inputs as `LeanBody` takes them."""
        return Logits(self._head(self.base_model(**inputs).last_hidden_state[:, -1:]))


class LeanBody:
    """A decoder without its head."""

    def __init__(self, stock: Any) -> None:
        self._rotary = stock.rotary_emb
        window = getattr(stock.config, "sliding_window", None)
        self._layers = [
            LeanLayer(layer, kind, window if kind == SLIDING else None)
            for layer, kind in zip(stock.layers, kinds(stock.config), strict=True)
        ]
        self._norm = stock.norm

    def products(self) -> Iterator[Product]:
        """Give all that read packed weights."""
        for layer in self._layers:
            yield from layer.products()

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
        cos_BCS, sin_BCS = self._rotary(inputs_embeds.float(), position_ids)
        half = sin_BCS.shape[-1] // 2
        signed_BCS = torch.cat((-sin_BCS[..., :half], sin_BCS[..., half:]), dim=-1)
        hidden_BCD = inputs_embeds.float()
        if inputs_embeds.shape[1] == 1 and paged.available():
            for layer in self._layers:
                hidden_BCD = layer.step(hidden_BCD, cos_BCS[:, 0], signed_BCS[:, 0], past_key_values)
            return Hidden(_normed(hidden_BCD, self._norm))
        turn = cos_BCS[:, :, None], signed_BCS[:, :, None]
        for layer in self._layers:
            mask = attention_mask[layer.kind] if isinstance(attention_mask, Mapping) else attention_mask
            hidden_BCD = layer(hidden_BCD, turn, mask, past_key_values)
        return Hidden(_normed(hidden_BCD, self._norm))


class LeanLayer:
    """One layer: attention and the gated product, each on normed inputs and added to them."""

    def __init__(self, stock: Any, kind: str, window: int | None) -> None:
        attention, gated = stock.self_attn, stock.mlp
        self.kind = kind  # of attention: FULL, SLIDING
        self._window = paged.EVERYTHING if window is None else window  # positions it sees
        self._index: int = attention.layer_idx
        self._size: int = attention.head_dim
        self._keys: int = attention.k_proj.out_features // self._size  # H
        self._turned: int = attention.q_proj.out_features // self._size + self._keys  # G + H
        self._scaling: float = attention.scaling
        self._before, self._between = stock.input_layernorm, stock.post_attention_layernorm
        self._head_norms = (attention.q_norm, attention.k_norm) if hasattr(attention, "q_norm") else None
        self._project = Product(attention.q_proj, attention.k_proj, attention.v_proj)
        self._out = Product(attention.o_proj)
        self._gate, self._up, self._down = Product(gated.gate_proj), Product(gated.up_proj), Product(gated.down_proj)

    def products(self) -> Iterator[Product]:
        """Give all that read packed weights."""
        yield from (self._project, self._out, self._gate, self._up, self._down)

    def __call__(self, hidden_BCD: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor, cache: PagedCache) -> Tensor:
        """Hidden states [B, C, D] -> [B, C, D]."""
        heads_BCNS = (
            self._project(_normed(hidden_BCD, self._before)).float().view(*hidden_BCD.shape[:2], -1, self._size)
        )
        turned_BCNS = rotated(self._head_normed(heads_BCNS[:, :, : self._turned]), *turn)
        queries_BCGS = turned_BCNS[:, :, : -self._keys]
        keys_BCHS, values_BCHS = turned_BCNS[:, :, -self._keys :], heads_BCNS[:, :, self._turned :]
        keys_BHMS, values_BHMS = cache.update(keys_BCHS.transpose(1, 2), values_BCHS.transpose(1, 2), self._index)
        return self._widened(_attended(queries_BCGS, keys_BHMS, values_BHMS, mask, self._scaling), hidden_BCD)

    def step(self, hidden_B1D: Tensor, cos_BS: Tensor, sin_BS: Tensor, cache: PagedCache) -> Tensor:
        """Do the same for one position per row, [B, 1, D]; each row sees its own window, so there is no mask."""
        heads_BX = self._project(_normed(hidden_B1D, self._before))[:, 0].float()
        layer, norms = cache.paged_layers[self._index], paged.norms_of(self._head_norms)
        seen_BX = paged.attended(heads_BX, cos_BS, sin_BS, layer, self._scaling, self._window, norms)
        return self._widened(seen_BX[:, None], hidden_B1D)

    def _widened(self, seen_BCX: Tensor, hidden_BCD: Tensor) -> Tensor:
        """Add what attention saw, and the gated product."""
        hidden_BCD = self._out.plus(seen_BCX, hidden_BCD)
        normed_BCD = _normed(hidden_BCD, self._between)
        return self._down.plus(self._up.times(normed_BCD, self._gate.silu(normed_BCD)), hidden_BCD)

    def _head_normed(self, heads_BCNS: Tensor) -> Tensor:
        """Norm each head of queries and keys, where the model does."""
        if self._head_norms is None:
            return heads_BCNS
        of_queries, of_keys = self._head_norms
        queries_BCGS, keys_BCHS = heads_BCNS[:, :, : -self._keys], heads_BCNS[:, :, -self._keys :]
        return torch.cat((_normed(queries_BCGS, of_queries), _normed(keys_BCHS, of_keys)), dim=2)


def _attended(
    queries_BCGS: Tensor, keys_BHMS: Tensor, values_BHMS: Tensor, mask_B1CM: Tensor, scaling: float
) -> Tensor:
    """Attention [B, C, G * S]; a single query per row is two batched products over grouped heads."""
    rows, count, queries, size = queries_BCGS.shape
    keys = keys_BHMS.shape[1]
    if count > 1:
        seen_BGCS = functional.scaled_dot_product_attention(
            queries_BCGS.transpose(1, 2), keys_BHMS, values_BHMS, mask_B1CM, scale=scaling, enable_gqa=True
        )
        return seen_BGCS.transpose(1, 2).reshape(rows, count, -1)
    grouped_NRS = queries_BCGS.reshape(rows * keys, queries // keys, size)
    scores_NRM = torch.bmm(grouped_NRS, keys_BHMS.flatten(0, 1).transpose(1, 2))
    scores_BGM = torch.add(mask_B1CM[:, 0], scores_NRM.view(rows, queries, -1), alpha=scaling)
    seen_NRS = torch.bmm(scores_BGM.softmax(-1).view_as(scores_NRM), values_BHMS.flatten(0, 1))
    return seen_NRS.view(rows, 1, -1)


def rotated(heads_BCNS: Tensor, cos_BC1S: Tensor, sin_BC1S: Tensor) -> Tensor:
    """Rotary embedding (Su et al., arXiv:2104.09864); the sine carries the sign of the swapped halves."""
    low, high = heads_BCNS.chunk(2, dim=-1)
    return torch.addcmul(heads_BCNS * cos_BC1S, torch.cat((high, low), dim=-1), sin_BC1S)


def _normed(hidden: Tensor, norm: Any) -> Tensor:
    """Root mean square norm over the last axis, by the weights of a stock module."""
    length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)  # one pass; torch's own kernel takes three on a CPU
    square = (length * length).mul_(1 / hidden.shape[-1])
    normed: Tensor = square.add_(norm.variance_epsilon).rsqrt_().mul(hidden).mul_(norm.weight)
    return normed


def kinds(config: Any) -> list[str]:
    """Kind of attention of each layer."""
    same = FULL if getattr(config, "sliding_window", None) is None else SLIDING  # of a model that does not say
    return list(getattr(config, "layer_types", None) or [same] * config.num_hidden_layers)
