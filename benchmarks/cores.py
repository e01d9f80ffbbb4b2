"""A measurement in a thread of its own, so that no peer is slowed by the cores that another one keeps.

See `Engine.start` for why: a team of OpenMP threads lasts as long as the thread that made it.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def apart(threads: int, action: Callable[[], T]) -> T:
    """Do something on so many torch threads, in a thread that then ends; the caller's number of threads stays."""
    import torch

    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(1, "apart", torch.set_num_threads, (threads,)) as alone:
            return alone.submit(action).result()
    finally:
        torch.set_num_threads(before)  # MKL's number is the process's
