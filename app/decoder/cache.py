"""Keys and values of many answers in blocks of one pool, behind the cache interface of transformers.

`BlockPool` is the storage: blocks of `BLOCK` positions, every layer's keys and values. Whose a block is, the tables say
that each forward is given: row b keeps its position p in block `table[b, p // BLOCK]`. So rows of any length share one
pool, a block may stand in several tables, and moving a row moves no keys. `PagedCache` is what a stock model writes to
and reads from in its forward; the written-out forwards (`app.decoder.lean`, `app.decoder.fused`) read the blocks where
they lie. Leaves out who owns a block (`app.engine.blocks`).

Axes: N blocks, B rows in use, T blocks of a row, H key-value heads, P = BLOCK positions, M positions in view,
C positions per forward, S head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

BLOCK: Final = 16  # P
PADDING: Final = 0  # block that rows without an answer write to; it is nobody's


@dataclass(frozen=True, slots=True)
class PlaneShape:
    """What one layer keeps of one position: its keys, or its values."""

    heads: int  # H
    size: int  # S
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Keys and values of one layer; their sizes may differ."""

    keys: PlaneShape
    values: PlaneShape


def blocks_for(positions: int) -> int:
    """How many blocks so many positions take."""
    return -(-positions // BLOCK)


def bytes_per_block(layers: Sequence[LayerShape]) -> int:
    """Bytes that one block takes, over all layers."""
    planes = [shape for layer in layers for shape in (layer.keys, layer.values)]
    return BLOCK * sum(plane.heads * plane.size * plane.dtype.itemsize for plane in planes)


class BlockPool:
    """Storage of `count` blocks; all zero at first, never read where it was not written.

    Planes (a layer's keys, a layer's values) of one shape and device share a tensor [planes, N, H, P, S], so copying a
    block is one operation, not one per layer.
    """

    def __init__(self, layers: Sequence[LayerShape], count: int) -> None:
        shapes = [shape for layer in layers for shape in (layer.keys, layer.values)]
        grouped: dict[PlaneShape, list[int]] = {}
        for plane, shape in enumerate(shapes):
            grouped.setdefault(shape, []).append(plane)
        self.count = count
        self._groups: list[Tensor] = []
        self.planes: list[Tensor] = [torch.empty(0)] * len(shapes)  # [N, H, P, S], keys and values of each layer
        for shape, planes in grouped.items():
            group = _zeros((len(planes), count, shape.heads, BLOCK, shape.size), shape.dtype, shape.device)
            self._groups.append(group)
            for index, plane in enumerate(planes):
                self.planes[plane] = group[index]

    def copy(self, block: int, source: int) -> None:
        """Copy a block into another one."""
        for group in self._groups:
            group[:, block] = group[:, source]


class PagedLayer(CacheLayerMixin):
    """One layer of a `PagedCache`."""

    is_sliding = False

    def __init__(self, keys_NHPS: Tensor, values_NHPS: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys_NHPS = keys_NHPS
        self.values_NHPS = values_NHPS
        self.is_initialized = True
        self.view: View | None = None  # of the forward under way

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write [B, H, C, S] at each row's positions; give copies of everything in view [B, H, M, S]."""
        assert self.view is not None
        place = self.view.block_BC, self.view.offset_BC
        for plane_NHPS, states_BHCS in ((self.keys_NHPS, key_states), (self.values_NHPS, value_states)):
            plane_NHPS.transpose(1, 2).index_put_(place, states_BHCS.transpose(1, 2))
        return _gathered(self.keys_NHPS, self.view.shown_BT), _gathered(self.values_NHPS, self.view.shown_BT)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the pool is there before the first forward."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002, the interface's signature
        """Length and offset of what is in view."""
        assert self.view is not None
        return self.view.shown_BT.shape[1] * BLOCK, 0

    def get_seq_length(self) -> int:
        """Rows differ, so there is no one length; the engine always passes positions."""
        return 0

    def get_max_length(self) -> int:
        """Positions in view."""
        return 0 if self.view is None else self.view.shown_BT.shape[1] * BLOCK


@dataclass(frozen=True, slots=True)
class View:
    """Where one forward reads and writes, on one device."""

    table_BT: Tensor  # int64, the rows' blocks
    shown_BT: Tensor  # int64, those of them in view
    position_BC: Tensor  # int64
    block_BC: Tensor  # int64, where the positions are written
    offset_BC: Tensor  # int64, likewise, within the block


class PagedCache(Cache):
    """A pool as the `past_key_values` of a stock model."""

    def __init__(self, pool: BlockPool) -> None:
        self.pool = pool
        pairs = zip(pool.planes[0::2], pool.planes[1::2], strict=True)
        self.paged_layers = [PagedLayer(keys, values) for keys, values in pairs]
        super().__init__(layers=list(self.paged_layers))
        self._devices = {plane.device for plane in pool.planes}

    def bind(self, table_BT: Tensor, position_BC: Tensor, length: int) -> None:
        """Say where the next forward writes, row b at `position_BC[b]`, and that it sees the first `length` positions.

        Args:
            table_BT: int64, blocks of each row; `PADDING` where it has none.
            position_BC: int64; a position beyond the row's blocks is padding, and written nowhere that matters.
            length: M, a multiple of BLOCK.

        """
        places = {}
        for device in self._devices:
            table, position = table_BT.to(device), position_BC.to(device)
            block_BC = table.gather(1, position // BLOCK)
            places[device] = View(table, table[:, : length // BLOCK], position, block_BC, position % BLOCK)
        for layer in self.paged_layers:
            layer.view = places[layer.keys_NHPS.device]


def _gathered(plane_NHPS: Tensor, table_BT: Tensor) -> Tensor:
    """Copy blocks in the order of a table: [B, H, M, S]."""
    rows, count = table_BT.shape
    _, heads, _, size = plane_NHPS.shape
    blocks = plane_NHPS.index_select(0, table_BT.reshape(-1)).view(rows, count, heads, BLOCK, size)
    return blocks.transpose(1, 2).reshape(rows, heads, count * BLOCK, size)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; on a CPU their pages are taken from the system only when they are first written (calloc)."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = int(np.prod(shape)) * dtype.itemsize
    return torch.from_numpy(np.zeros(size, dtype=np.uint8)).view(dtype).view(shape)
