"""Keys and values of many answers, each at its own position, behind the cache interface of transformers.

`KVPool` is the storage: every layer's keys and values of `rows` sequences. `SlotCache` is a view of its first rows that
a stock model writes to and reads from in its forward. Transformers' own static cache has one position for all rows, so
it cannot serve slots; here each row writes at the position it is told. Leaves out which row belongs to whom.

Axes: R rows of the pool, B rows in use, H key-value heads, M positions of a row, C positions per forward, D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


@dataclass(frozen=True, slots=True)
class PlaneShape:
    """What one layer keeps of one position: its keys, or its values."""

    heads: int  # H
    size: int  # D
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Keys and values of one layer; their sizes may differ."""

    keys: PlaneShape
    values: PlaneShape


class KVPool:
    """Storage of `rows` sequences of `length` positions; all zero at first, never read where it was not written.

    Planes (a layer's keys, a layer's values) of one shape and device share a tensor [planes, R, H, M, D], so copying a
    row is one operation, not one per layer.
    """

    def __init__(self, layers: Sequence[LayerShape], rows: int, length: int) -> None:
        shapes = [shape for layer in layers for shape in (layer.keys, layer.values)]
        grouped: dict[PlaneShape, list[int]] = {}
        for plane, shape in enumerate(shapes):
            grouped.setdefault(shape, []).append(plane)
        self.rows = rows
        self.length = length
        self.groups: list[Tensor] = []
        self.planes: list[Tensor] = [torch.empty(0)] * len(shapes)
        for shape, planes in grouped.items():
            group = _zeros((len(planes), rows, shape.heads, length, shape.size), shape.dtype, shape.device)
            self.groups.append(group)
            for index, plane in enumerate(planes):
                self.planes[plane] = group[index]

    def copy(self, row: int, source: "KVPool", source_row: int, length: int) -> None:
        """Copy the first `length` positions of another pool's row (or of another row of this one) into `row`."""
        for mine, theirs in zip(self.groups, source.groups, strict=True):
            mine[:, row, :, :length] = theirs[:, source_row, :, :length]

    def bytes_per_position(self) -> int:
        """Bytes that one position of one row takes, over all layers."""
        return sum(plane.shape[1] * plane.shape[3] * plane.element_size() for plane in self.planes)


class SlotLayer(CacheLayerMixin):
    """One layer of a `SlotCache`."""

    is_sliding = False

    def __init__(self, keys_RHMD: Tensor, values_RHMD: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.pool_keys_RHMD = keys_RHMD
        self.pool_values_RHMD = values_RHMD
        self.is_initialized = True
        self.index: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))

    def view(self, rows: int, length: int) -> None:
        """Narrow to the first `rows` rows and `length` positions."""
        self.keys = self.pool_keys_RHMD[:rows, :, :length]
        self.values = self.pool_values_RHMD[:rows, :, :length]
        self.keys_BMHD = self.keys.transpose(1, 2)
        self.values_BMHD = self.values.transpose(1, 2)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write [B, H, C, D] at each row's positions; give back everything in view, written or not."""
        assert self.keys is not None
        assert self.values is not None
        self.keys_BMHD.index_put_(self.index, key_states.transpose(1, 2))
        self.values_BMHD.index_put_(self.index, value_states.transpose(1, 2))
        return self.keys, self.values

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the pool is there before the first forward."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002, the interface's signature
        """Length and offset of what is in view."""
        assert self.keys is not None
        return int(self.keys.shape[2]), 0

    def get_seq_length(self) -> int:
        """Rows differ, so there is no one length; the engine always passes positions."""
        return 0

    def get_max_length(self) -> int:
        """Positions of a row."""
        return int(self.pool_keys_RHMD.shape[2])


class SlotCache(Cache):
    """A pool as the `past_key_values` of a stock model."""

    def __init__(self, pool: KVPool) -> None:
        pairs = zip(pool.planes[0::2], pool.planes[1::2], strict=True)
        self.slot_layers = [SlotLayer(keys, values) for keys, values in pairs]
        super().__init__(layers=list(self.slot_layers))
        self._in_view = (0, 0)
        self._bound: Tensor | None = None
        rows_R1 = torch.arange(pool.rows)[:, None]
        self._rows = {plane.device: rows_R1.to(plane.device) for plane in pool.planes}

    def bind(self, position_BC: Tensor, length: int) -> None:
        """Say where the next forward writes: row b at `position_BC[b]`; it sees the first `length` positions."""
        rows = position_BC.shape[0]
        if position_BC is self._bound and (rows, length) == self._in_view and len(self._rows) == 1:
            return  # the same tensor, whatever it says now
        self._bound = position_BC
        if (rows, length) != self._in_view:
            for layer in self.slot_layers:
                layer.view(rows, length)
            self._in_view = (rows, length)
        index = {device: (row_R1[:rows], position_BC.to(device)) for device, row_R1 in self._rows.items()}
        for layer in self.slot_layers:
            layer.index = index[layer.pool_keys_RHMD.device]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; on a CPU their pages are taken from the system only when they are first written (calloc)."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = int(np.prod(shape)) * dtype.itemsize
    return torch.from_numpy(np.zeros(size, dtype=np.uint8)).view(dtype).view(shape)
