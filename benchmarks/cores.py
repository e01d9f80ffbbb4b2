"""A measurement in a thread of its own, so that no peer is slowed by the cores that another one keeps.

See `Engine.start` for why: a team of OpenMP threads lasts as long as the thread that made it.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def apart(threads: int, action: Callable[[], T]) -> T:
    """Do something on so many torch threads, in a thread that then ends; give back or raise what it gave or raised."""
    import torch

    given: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        torch.set_num_threads(threads)
        try:
            given.append(action())
        except BaseException as error:  # noqa: BLE001 - it is raised where the action was wanted
            raised.append(error)

    thread = threading.Thread(target=run, name="apart")
    thread.start()
    thread.join()
    torch.set_num_threads(1)
    for error in raised:
        raise error
    return given[0]
