"""Room on a device: how much is free, how unused memory goes back, and which errors say that there was none.

Leaves out what is free on the host: what a container may take is the caller's to know (`app.models.host`).
"""

import ctypes
import sys
from collections.abc import Callable
from typing import Final

import torch

Free = Callable[[torch.device], int]  # bytes that a device has left

SHORT: Final = (  # what torch, C++ and Python's threads say of too little memory, in a RuntimeError
    "allocate memory",
    "not enough memory",
    "bad_alloc",
    "can't start new thread",
)


def free_bytes(device: torch.device) -> int:
    """Bytes of a device that nobody has taken, torch's own cache counted as taken; the host is not asked."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else sys.maxsize


def usable_bytes(device: torch.device) -> int:
    """Bytes of a device that this process can have, torch's unused cache among them; the host is not asked."""
    if device.type != "cuda":
        return free_bytes(device)
    return free_bytes(device) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def give_back(device: torch.device) -> None:
    """Return memory that is kept for later to the system: torch's cache on CUDA, free pages of the heap on the host.

    The C library keeps what was freed between pieces that are in use, and micro-batches of many shapes leave such gaps.
    Where it is not glibc, it does as it does.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def says_short_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was too little memory, in whose words ever."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SHORT)
