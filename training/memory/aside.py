"""Where copies to go back to lie: beside the originals where there is plenty of room, else in the host's memory.

An update that is refused puts back weights and moments, 12 bytes a parameter. On a device that the update itself fills
they would be what no longer fits: 36 GB for three billion parameters. Leaves out what is copied
(`training.optimization.optimizer`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from training.memory.room import Free, free_bytes

_SPARE = 2  # times the size of the copies that must be left for them to stay on the device
_HOST = torch.device("cpu")


def homes(sizes: Mapping[torch.device, int], free: Free = free_bytes) -> dict[torch.device, torch.device]:
    """Say where copies of so many bytes on each device are to lie: there, or on the host."""
    return {device: device if free(device) >= _SPARE * size else _HOST for device, size in sizes.items()}


def homes_of(tensors: Iterable[Tensor], free: Free = free_bytes) -> dict[torch.device, torch.device]:
    """Say where copies of all these are to lie, by the device of the original."""
    sizes: Counter[torch.device] = Counter()
    for one in tensors:
        sizes[one.device] += one.nbytes
    return homes(sizes, free)


class Aside:
    """Copies by the name of what they belong to, each taken before that is first changed."""

    def __init__(self, changing: Iterable[Tensor], free: Free = free_bytes) -> None:
        """Choose where copies of all that may change will lie."""
        self._where = homes_of(changing, free)
        self._copies: dict[str, dict[str, Tensor]] = {}

    def put(self, name: str, originals: Mapping[str, Tensor]) -> None:
        """Copy what belongs to a name; what comes of it is for `Tensor.copy_` into the originals."""
        parts = originals.items()
        self._copies[name] = {key: one.detach().to(self._where[one.device], copy=True) for key, one in parts}

    def items(self) -> Iterable[tuple[str, Mapping[str, Tensor]]]:
        """Give the copies of every name that was put here."""
        return self._copies.items()
