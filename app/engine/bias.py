"""What some rows do to their logits: penalties, `logit_bias`, and endings forbidden until `min_tokens` are there.

Repetition penalties come first, on the model's own logits; the rest is added. Flat indices of all rows in one tensor,
built again only when rows or phases change (at every step where there are penalties), so that rows that ask for nothing
pay nothing. For a CUDA graph, whose tensors stay what they are, entries are filled up to a power of two (`widened`) and
copied into those that the graph reads (`take`). An answer so bent is marked `altered` and never learned from.

Axes: B rows, V vocabulary, N entries, F entries that are divided by a factor.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class Bias:
    """Changes of the logits of a batch."""

    def __init__(
        self,
        per_row: Sequence[Mapping[int, float]],
        vocabulary: int,
        device: torch.device,
        factors: Sequence[Mapping[int, float]] = (),
    ) -> None:
        """Lay out what every row asks for.

        Args:
            per_row: token id -> what is added to its logit.
            vocabulary: V.
            device: of the logits.
            factors: token id -> what its logit is divided by (multiplied with where it is negative), > 0.

        """
        self._index_N, self._value_N = _flat(per_row, vocabulary, device)
        self._index_F, self._factor_F = _flat(factors, vocabulary, device)

    @property
    def size(self) -> tuple[int, int]:
        """N and F."""
        return len(self._index_N), len(self._index_F)

    def widened(self) -> "Bias":
        """Fill up to powers of two, with entries that change nothing: 0 is added, or a factor is given again."""
        wide = copy.copy(self)
        room_N, room_F = (1 << max(4, (count - 1).bit_length()) if count else 0 for count in self.size)
        wide._index_N = _filled(self._index_N, room_N)
        wide._value_N = torch.cat((self._value_N, self._value_N.new_zeros(room_N - len(self._value_N))))
        wide._index_F, wide._factor_F = _filled(self._index_F, room_F), _filled(self._factor_F, room_F)
        return wide

    def take(self, other: "Bias") -> None:
        """Change into another one of the same size, in the same tensors."""
        self._index_N.copy_(other._index_N)
        self._value_N.copy_(other._value_N)
        self._index_F.copy_(other._index_F)
        self._factor_F.copy_(other._factor_F)

    def add(self, logits_BV: Tensor) -> Tensor:
        """Logits so changed, in float32 (float64 stays)."""
        wide = torch.promote_types(logits_BV.dtype, torch.float32)
        bent_BV = logits_BV.to(wide, copy=True).contiguous()
        flat = bent_BV.view(-1)
        if len(self._index_F):
            was_F, factor_F = flat[self._index_F], self._factor_F.to(wide)
            flat[self._index_F] = torch.where(was_F > 0, was_F / factor_F, was_F * factor_F)
        flat.index_add_(0, self._index_N, self._value_N.to(wide))
        return bent_BV


def _filled(entries_N: Tensor, room: int) -> Tensor:
    """Repeat the first entry up to a size."""
    return torch.cat((entries_N, entries_N[:1].expand(room - len(entries_N))))


def _flat(per_row: Sequence[Mapping[int, float]], vocabulary: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Lay entries of all rows out as flat indices and values."""
    entries = [(row * vocabulary + token, value) for row, asked in enumerate(per_row) for token, value in asked.items()]
    index_N = torch.tensor([index for index, _ in entries], dtype=torch.long, device=device)
    return index_N, torch.tensor([value for _, value in entries], dtype=torch.float32, device=device)
