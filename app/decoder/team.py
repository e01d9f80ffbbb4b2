"""Run compiled code on the threads that torch computes with.

GNU OpenMP keeps a team of threads for whoever computes in parallel, and torch's operations on a CPU are run by it. Code
of ours that ran on threads of its own would find the cores taken by torch's, which spin for the next operation; so it
is handed to the same team, by the entry that compilers use for a parallel region (GOMP_parallel). Where torch was built
with another OpenMP, or comes from elsewhere, code runs on the calling thread alone.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

_REGION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def run_by_all(function: int, arguments: NDArray[np.int64], threads: int) -> None:
    """Run a C function on every thread of the team at once, and wait for all.

    Args:
        function: address of a `void f(void *)`.
        arguments: what it is given the address of.
        threads: of the team, 1 or more.

    """
    start = _start() if threads > 1 else None
    if start is None:
        _REGION(function)(arguments.ctypes.data)
    else:
        start(function, arguments.ctypes.data, threads, 0)


@cache
def _start() -> Callable[..., None] | None:
    """Find the entry in the OpenMP that torch brought along and has loaded."""
    library = next((path for path in _loaded() if "libgomp" in path.name and path.is_relative_to(_packages())), None)
    if library is None:
        return None
    start = ctypes.CDLL(str(library)).GOMP_parallel
    start.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    start.restype = None
    return start


def _loaded() -> list[Path]:
    """Libraries of this process, where the system says."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    return [Path(line.split()[-1]) for line in maps.read_text().splitlines() if ".so" in line]


def _packages() -> Path:
    """Where torch and the libraries that its wheel brings are installed."""
    return Path(torch.__file__).resolve().parent.parent
