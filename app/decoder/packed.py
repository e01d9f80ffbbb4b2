"""Linear layers with their weights laid out for the CPU's matrix kernels, packed once per version and not per product.

A product with few rows spends most of its time on fetching weights in an order that suits the kernel; oneDNN takes them
reordered once, and was measured 2 to 4 times as fast at 8 to 32 rows. `PackedModel` is a view of any model: other
modules, the same parameters, each plain linear layer replaced. The model itself stays as it is, for training, scoring
and the canary. A packed layout is a copy, so whoever changes the weights calls `repack` before the view runs again.

Costs the memory of the linear layers once more per resident version. CPU only, in float32, or in bfloat16 where the
processor multiplies that itself. Leaves out who may be packed
by setting (`app.engine.config`), and forwards written out for it (`app.decoder.lean`).

Axes: N outputs, K inputs.
"""

import copy
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

_THREADS = 4  # that pack at once
_ROWS = 64  # rows the layout is chosen for; between 16 and 256 no difference was measured


class Product:
    """The product of one or more linear layers with the same inputs; their outputs stand side by side."""

    def __init__(self, *layers: nn.Linear) -> None:
        """Name the layers; `repack` before the first product."""
        self._layers = layers

    @torch.no_grad()
    def repack(self) -> None:
        """Lay out the weights as they are now."""
        weight_NK = torch.cat([layer.weight for layer in self._layers])
        biases: list[Tensor] = [layer.bias for layer in self._layers if layer.bias is not None]
        self._bias_N = torch.cat(biases) if biases else None
        self._dtype = weight_NK.dtype
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight_NK, _ROWS)

    def __call__(self, input: Tensor) -> Tensor:  # noqa: A002, the name nn.Linear gives it
        """Product [..., K] -> [..., N]."""
        return self._unary(input, "none")

    def silu(self, input: Tensor) -> Tensor:  # noqa: A002
        """Product, then x * sigmoid(x)."""
        return self._unary(input, "swish")

    def plus(self, input: Tensor, other: Tensor) -> Tensor:  # noqa: A002
        """Product, plus `other` [..., N], in whose dtype the sum is."""
        return self._binary(input, other, "add") if other.dtype == self._dtype else other + self(input)

    def times(self, input: Tensor, other: Tensor) -> Tensor:  # noqa: A002
        """Product, times `other` [..., N] element by element."""
        return self._binary(input, other, "mul")

    def _unary(self, input: Tensor, after: str) -> Tensor:  # noqa: A002
        input = input.to(self._dtype)  # noqa: A001
        product: Tensor = torch.ops.mkldnn._linear_pointwise(input, self._packed, self._bias_N, after, [], "")
        return product

    def _binary(self, input: Tensor, other: Tensor, after: str) -> Tensor:  # noqa: A002
        input = input.to(self._dtype)  # noqa: A001
        product: Tensor = torch.ops.mkldnn._linear_pointwise.binary(input, other, self._packed, self._bias_N, after)
        return product


class PackedLinear(nn.Linear):
    """A linear layer whose product reads a packed copy of the weight it shares with another layer."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=plain.bias is not None, device="meta")
        self.weight = plain.weight  # [N, K]
        self.bias = plain.bias
        self.product = Product(plain)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, the name nn.Linear gives it
        """Product [..., K] -> [..., N]."""
        return self.product(input)


class PackedModel:
    """A view of a model that runs on packed weights."""

    def __init__(self, model: nn.Module) -> None:
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self.model: Any = copy.deepcopy(model, shared)  # new modules around the same tensors
        plain = [name for name, module in model.named_modules() if type(module) is nn.Linear]
        self._products = [_replace(self.model, name).product for name in plain]
        self.repack()

    def __call__(self, **inputs: Any) -> Any:
        """Forward of the model."""
        return self.model(**inputs)

    @property
    def base_model(self) -> Any:
        """The view without its head."""
        return self.model.base_model

    def repack(self) -> None:
        """Take over the weights as they are now."""
        repack_all(self._products)


def repack_all(products: Sequence[Product]) -> None:
    """Lay out the weights of many products as they are now, on threads that end with it: one is slower than memory."""
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), thread_name_prefix="pack") as threads:
        for _ in threads.map(Product.repack, products):
            pass


def can_pack(model: nn.Module) -> bool:
    """Whether this build of torch has the kernels, and the model lies on a CPU in a dtype of theirs, without hooks."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")):  # type: ignore[no-untyped-call]
        return False
    hooked = any(hasattr(module, "_hf_hook") for module in model.modules())
    kinds = {(parameter.device.type, parameter.dtype) for parameter in model.parameters()}
    return not hooked and kinds in (
        {("cpu", torch.float32)},
        {("cpu", torch.bfloat16)} if multiplies_bfloat16() else {},
    )


def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for products in bfloat16; others take longer than in float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _replace(model: nn.Module, name: str) -> PackedLinear:
    """Put a packed layer where a plain one is; returns it."""
    parent, _, child = name.rpartition(".")
    owner = model.get_submodule(parent)
    packed = PackedLinear(owner.get_submodule(child))  # type: ignore[arg-type]
    setattr(owner, child, packed)
    return packed
