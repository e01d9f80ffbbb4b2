"""Fully sharded learning (FSDP2): every process holds its part of each layer's weights, gradients and moments.

The policy stays a whole, stock model on every process: it samples, is measured and is published as ever. What learns
is a twin whose decoder layers are sharded; a layer is put together while it runs. Embedding and head stay whole, since
the head is read a chunk at a time apart from the rest (`training.scoring`): the optimizer averages their gradients.
After an update `merge` writes the twin's weights into the policy. Leaves out learning itself (`training.update`).
"""

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from training.distributed.ranks import Ranks


class Sharded:
    """A policy's model and its twin, sharded over the processes."""

    def __init__(self, served: PreTrainedModel, ranks: Ranks) -> None:
        """Make the twin.

        Args:
            served: stock model, the same on every process; `merge` changes it in place.
            ranks: two processes or more, joined.

        Raises:
            ValueError: the model has no layers that can be sharded one by one.

        """
        self._served = served
        self.model = copy.deepcopy(served)
        layers = [
            module for module in self.model.base_model.modules() if isinstance(module, GradientCheckpointingLayer)
        ]
        if not layers:
            raise ValueError(f"{type(served).__name__} names no decoder layers: learn with one process")
        mesh = init_device_mesh(torch.device(ranks.device).type, (ranks.size,))
        policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)  # gradients of all processes add up in float32
        for layer in layers:
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        kept = {*self._weights(self.model.get_input_embeddings()), *self._weights(self.model.get_output_embeddings())}
        # Resharded after its forward as the layers are: between two calls no parameter is a whole one for a while.
        fully_shard(self.model.base_model, mesh=mesh, mp_policy=policy, ignored_params=kept, reshard_after_forward=True)

    @staticmethod
    def _weights(module: object) -> list[nn.Parameter]:
        return list(cast("nn.Module", module).parameters())

    @torch.no_grad()
    def merge(self) -> None:
        """Write the twin's weights into the policy; every process must call it."""
        served = dict(self._served.named_parameters())
        for name, parameter in self.model.named_parameters():
            served[name].copy_(whole(parameter))


def whole(tensor: Tensor) -> Tensor:
    """Put a sharded tensor together on every process; any other is returned as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def alike(value: Tensor, pattern: Tensor) -> Tensor:
    """Return a whole tensor sharded as `pattern` is, in its dtype and on its device; a copy in any case."""
    if isinstance(value, DTensor):
        return value.to(pattern.dtype, copy=True)
    if not isinstance(pattern, DTensor):
        return value.to(pattern, copy=True)
    local = value.to(device=pattern.device, dtype=pattern.dtype, copy=True)
    return distribute_tensor(local, pattern.device_mesh, pattern.placements, src_data_rank=None)
