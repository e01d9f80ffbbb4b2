"""Attention masks for rows that each stand at their own position.

Built from positions with one comparison per kind of layer, so a step of 32 rows costs microseconds; passed explicitly,
so that no model builds its own. Additive floats: SDPA and eager attention both take them. Leaves out chunked attention
and anything recurrent, which `app.engine.anatomy` refuses.

Axes: B rows, C positions per forward, M positions in view.
"""

import torch
from torch import Tensor

FULL, SLIDING = "full_attention", "sliding_attention"
Mask = Tensor | dict[str, Tensor]


class Masks:
    """Masks of one model: what each kind of its layers may see."""

    def __init__(
        self, kinds: frozenset[str], window: int | None, length: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.kinds = kinds  # of FULL and SLIDING, those the model has
        self.window = window  # positions a sliding layer sees, its own included
        self._slots_M = torch.arange(length, device=device)
        self._hidden = torch.tensor(float("-inf"), dtype=dtype, device=device)
        self._seen = torch.zeros((), dtype=dtype, device=device)

    def __call__(self, position_BC: Tensor, length: int) -> Mask:
        """Mask of queries at `position_BC` over the first `length` positions.

        Returns:
            [B, 1, C, M] of 0 (seen) and -inf; one per kind of layer for a model that mixes kinds.

        """
        built = {kind: self._mask(kind, position_BC, length) for kind in self.kinds}
        return built if len(built) > 1 else next(iter(built.values()))

    def _mask(self, kind: str, position_BC: Tensor, length: int) -> Tensor:
        query_BC1 = position_BC[:, :, None]
        slots_M = self._slots_M[:length]
        seen_BCM = slots_M <= query_BC1
        if kind == SLIDING:
            assert self.window is not None
            seen_BCM &= slots_M > query_BC1 - self.window
        return torch.where(seen_BCM, self._seen, self._hidden)[:, None]
