"""Attention masks for rows that each stand at their own position.

`Masks` builds them from positions, for chunks of prompts. A decode step changes one position per row (two where a
window slides), so `StepMasks` keeps the masks of all rows and writes only those. Passed explicitly, so that no model
builds its own. Additive floats: SDPA and eager attention both take them. Leaves out chunked attention and anything
recurrent, which `app.decoder.anatomy` refuses.

Axes: R rows at most, B rows in use, S rows seeded, C positions per forward, M positions in view, W positions stored: a
window's room on the left, then all positions.
"""

import torch
from torch import Tensor

FULL, SLIDING = "full_attention", "sliding_attention"
NEG_INF = float("-inf")
_ALIGNED = 64  # rows of a mask begin at multiples of this many positions, as CUDA kernels like them
Mask = Tensor | dict[str, Tensor]


class Masks:
    """Masks of one model: what each kind of its layers may see."""

    def __init__(
        self, kinds: frozenset[str], window: int | None, length: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.kinds = kinds  # of FULL and SLIDING, those the model has
        self.window = window  # positions a sliding layer sees, its own included
        self.length = length  # positions of a row
        self._slots_M = torch.arange(length, device=device)
        self.hidden = torch.tensor(NEG_INF, dtype=dtype, device=device)
        self._seen = torch.zeros((), dtype=dtype, device=device)

    def __call__(self, position_BC: Tensor, length: int) -> Mask:
        """Mask of queries at `position_BC` over the first `length` positions.

        Returns:
            [B, 1, C, M] of 0 (seen) and -inf; one per kind of layer for a model that mixes kinds.

        """
        return _packed({kind: self.of(kind, position_BC, length) for kind in self.kinds})

    def of(self, kind: str, position_BC: Tensor, length: int) -> Tensor:
        """Mask [B, 1, C, M] of one kind of layer."""
        query_BC1 = position_BC[:, :, None]
        slots_M = self._slots_M[:length]
        seen_BCM = slots_M <= query_BC1
        if kind == SLIDING:
            assert self.window is not None
            seen_BCM &= slots_M > query_BC1 - self.window
        return torch.where(seen_BCM, self._seen, self.hidden)[:, None]


class StepMasks:
    """Masks of the rows' next positions, kept on the device and changed in place."""

    def __init__(self, masks: Masks, rows: int) -> None:
        self._masks = masks
        self._room = -(-(masks.window or 0) // _ALIGNED) * _ALIGNED
        width = self._room + -(-masks.length // _ALIGNED) * _ALIGNED
        hidden = masks.hidden
        self._stored = {kind: hidden.expand(rows, width).clone() for kind in masks.kinds}  # [R, W]
        self._shown = [stored_RW[:, self._room :] for stored_RW in self._stored.values()]
        sliding_RW = self._stored.get(SLIDING)
        self._left = None if sliding_RW is None else sliding_RW[:, self._room - (masks.window or 0) :]
        self._in_view: tuple[int, int, Mask] | None = None

    def seed(self, row_S: Tensor, position_S: Tensor) -> None:
        """Start rows that stand at these positions."""
        for kind, stored_RW in self._stored.items():
            mask_SM = self._masks.of(kind, position_S[:, None], self._masks.length)[:, 0, 0]
            stored_RW[row_S, self._room : self._room + self._masks.length] = mask_SM

    def move(self, source: int, row: int) -> None:
        """Move a row's mask."""
        for stored_RW in self._stored.values():
            stored_RW[row] = stored_RW[source]

    def __call__(self, position_B1: Tensor, length: int) -> Mask:
        """Show each row the position it stands at, hide the one that leaves its window, and give the masks.

        Returns:
            views [B, 1, 1, M], or one per kind of layer for a model that mixes kinds.

        """
        rows = position_B1.shape[0]
        for shown_RM in self._shown:
            shown_RM.scatter_(1, position_B1, 0.0)
        if self._left is not None:
            self._left.scatter_(1, position_B1, NEG_INF)
        if self._in_view is None or self._in_view[:2] != (rows, length):
            shown = slice(self._room, self._room + length)
            packed = _packed({kind: stored_RW[:rows, None, None, shown] for kind, stored_RW in self._stored.items()})
            self._in_view = (rows, length, packed)
        return self._in_view[2]


def _packed(by_kind: dict[str, Tensor]) -> Mask:
    """As a model takes it: by kind only when there are several."""
    return by_kind if len(by_kind) > 1 else next(iter(by_kind.values()))
