"""What some rows add to their logits: `logit_bias`, and endings forbidden until `min_tokens` are there.

Flat indices of all rows in one tensor, built again only when rows or phases change, so that rows that ask for nothing
pay nothing. An answer so bent is marked `altered` and never learned from.

Axes: B rows, V vocabulary, N entries.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class Bias:
    """Additions to the logits of a batch."""

    def __init__(self, per_row: Sequence[Mapping[int, float]], vocabulary: int, device: torch.device) -> None:
        entries = [
            (row * vocabulary + token, value) for row, asked in enumerate(per_row) for token, value in asked.items()
        ]
        self._index_N = torch.tensor([index for index, _ in entries], dtype=torch.long, device=device)
        self._value_N = torch.tensor([value for _, value in entries], dtype=torch.float32, device=device)

    def add(self, logits_BV: Tensor) -> Tensor:
        """Logits with the additions, in float32 (float64 stays)."""
        wide = torch.promote_types(logits_BV.dtype, torch.float32)
        bent_BV = logits_BV.to(wide, copy=True).contiguous()
        bent_BV.view(-1).index_add_(0, self._index_N, self._value_N.to(wide))
        return bent_BV
