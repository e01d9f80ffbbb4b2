"""Linear layers with their weights laid out for the CPU's matrix kernels, packed once per version and not per product.

A product with few rows spends most of its time on fetching weights in an order that suits the kernel; oneDNN takes them
reordered once, and was measured 2 to 4 times as fast at 8 to 32 rows. `PackedModel.of` gives a view of a model: other
modules, the same parameters, each plain linear layer replaced. The model itself stays as it is, for training, scoring
and the canary. A packed layout is a copy, so whoever changes the weights calls `repack` before the view runs again.

Costs the memory of the linear layers once more per resident version. CPU and float32 only. Leaves out who may be packed
by setting (`app.engine.config`).

Axes: N outputs, K inputs.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

_ROWS = 64  # rows the layout is chosen for; between 16 and 256 no difference was measured


class PackedLinear(nn.Linear):
    """A linear layer whose product reads a packed copy of the weight it shares with another layer."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=plain.bias is not None, device="meta")
        self.weight = plain.weight  # [N, K]
        self.bias = plain.bias
        self.repack()

    @torch.no_grad()
    def repack(self) -> None:
        """Lay out the weight as it is now."""
        self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), _ROWS)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, the name nn.Linear gives it
        """Product [..., K] -> [..., N]."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(input, self._packed, self.bias, "none", [], "")
        return product


class PackedModel:
    """A view of a model that runs on packed weights."""

    def __init__(self, model: nn.Module) -> None:
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self.model: Any = copy.deepcopy(model, shared)  # new modules around the same tensors
        self._layers = [
            _replace(self.model, name) for name, module in model.named_modules() if type(module) is nn.Linear
        ]

    def repack(self) -> None:
        """Take over the weights as they are now."""
        for layer in self._layers:
            layer.repack()


def can_pack(model: nn.Module) -> bool:
    """Whether this build of torch has the kernels, and the model lies on a CPU in float32, untouched by hooks."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")):  # type: ignore[no-untyped-call]
        return False
    hooked = any(hasattr(module, "_hf_hook") for module in model.modules())
    kinds = {(parameter.device.type, parameter.dtype) for parameter in model.parameters()}
    return not hooked and kinds == {("cpu", torch.float32)}


def _replace(model: nn.Module, name: str) -> PackedLinear:
    """Put a packed layer where a plain one is; returns it."""
    parent, _, child = name.rpartition(".")
    owner = model.get_submodule(parent)
    packed = PackedLinear(owner.get_submodule(child))  # type: ignore[arg-type]
    setattr(owner, child, packed)
    return packed
