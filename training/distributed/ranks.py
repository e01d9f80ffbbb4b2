"""The processes that learn one policy together: who does what part, and what they agree on.

Alone is the rule, and costs nothing: every method is then the identity. With several, each has the whole policy to
sample with and takes a part of the work; whatever decides (a loss, a norm, a wish to stop) is the same number on all
of them, so that they take the same way. What is agreed here travels over the CPU (gloo), whatever the device.
Leaves out starting processes (`worker.offline.processes`) and sharding weights (`training.distributed.sharded`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that learn together."""

    rank: int = 0  # of this process, 0..size - 1; 0 leads: it alone writes files and shows progress
    size: int = 1  # processes
    device: str = "cpu"  # of this process's share
    group: dist.ProcessGroup | None = None  # over the CPU; None: alone

    @property
    def leads(self) -> bool:
        """Whether this process writes and shows what all of them did."""
        return self.rank == 0

    def span(self, count: int) -> slice:
        """Return this process's share of `count` things in a row; shares differ by one at most."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def dealt(self, things: Sequence[T]) -> list[T | None]:
        """Return every size-th thing, the rank-th first; None where others have one more, to go along with them."""
        rounds = -(-len(things) // self.size)
        dealt: list[T | None] = list(things[self.rank :: self.size])
        return dealt + [None] * (rounds - len(dealt))

    def gathered(self, own: T) -> list[T]:
        """Return what every process holds, by rank. Processes of one run trust each other: objects are pickled."""
        if self.group is None:
            return [own]
        found: list[T | None] = [None] * self.size
        dist.all_gather_object(found, own, group=self.group)
        return found  # type: ignore[return-value]  # each has its place

    def first(self, own: T) -> T:
        """Return what the leading process holds."""
        return own if self.group is None else self.gathered(own if self.leads else None)[0]  # type: ignore[return-value]

    def total(self, own: Tensor) -> Tensor:
        """Return the sum over all processes of a small tensor, on the CPU."""
        if self.group is None:
            return own
        whole = own.detach().cpu().clone()
        dist.all_reduce(whole, group=self.group)
        return whole

    def agreed(self, own: bool) -> bool:
        """Return whether any process says so."""
        return own if self.group is None else bool(self.total(torch.tensor(int(own))))

    def average(self, tensor: Tensor) -> None:
        """Replace a tensor on this process's device by its mean over all processes."""
        if self.group is not None:
            dist.all_reduce(tensor)
            tensor.div_(self.size)


ALONE = Ranks()


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the processes that the environment names (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT).

    Args:
        device: "cpu"; with "auto" or "cuda" each process has the GPU of its local rank where there are GPUs.

    Raises:
        ImportError: accelerate is missing.

    """
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
    own = str(state.device) if state.device.type == "cuda" else state.device.type
    try:
        yield Ranks(state.process_index, state.num_processes, own, dist.new_group(backend="gloo"))
    finally:
        state.destroy_process_group()
