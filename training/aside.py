"""Copies to go back to: beside the originals where there is plenty of room, else in the host's memory.

An update that is refused puts back weights and moments, 12 bytes a parameter. On a device that the update itself fills
they would be what no longer fits: 36 GB for three billion parameters. Leaves out what is copied (`training.optimizer`).
"""

import sys
from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Free = Callable[[torch.device], int]  # bytes that a device has left

_SPARE = 2  # times the size of the copies that must be left for them to stay on the device
_HOST = torch.device("cpu")


def free_bytes(device: torch.device) -> int:
    """Bytes of a device that nobody has taken, torch's own cache counted as taken; the host is not asked."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else sys.maxsize


def homes(sizes: Mapping[torch.device, int], free: Free = free_bytes) -> dict[torch.device, torch.device]:
    """Say where copies of so many bytes on each device are to lie: there, or on the host."""
    return {device: device if free(device) >= _SPARE * size else _HOST for device, size in sizes.items()}


def copies(tensors: Mapping[str, Tensor], free: Free = free_bytes) -> dict[str, Tensor]:
    """Copy tensors; what comes of it is for `Tensor.copy_` into the originals."""
    sizes: Counter[torch.device] = Counter()
    for one in tensors.values():
        sizes[one.device] += one.nbytes
    where = homes(sizes, free)
    return {name: one.detach().to(where[one.device], copy=True) for name, one in tensors.items()}
