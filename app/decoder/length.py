"""How many positions a step looks at: the rows' longest, rounded up.

On a CPU to the next multiple of 16, which wastes little and keeps vector lanes the same whatever the batch; on a GPU to
the next power of two, so that few CUDA graphs serve all lengths.
"""

from dataclasses import dataclass

_CPU_STEP = 16
_GPU_LEAST = 128


@dataclass(frozen=True, slots=True)
class Lengths:
    """Buckets of length up to a longest one."""

    longest: int  # positions of a slot
    graphed: bool  # whether CUDA graphs are captured per bucket

    def bucket(self, needed: int) -> int:
        """Smallest bucket that holds `needed` positions."""
        assert 0 < needed <= self.longest
        if self.graphed:
            return min(max(1 << (needed - 1).bit_length(), _GPU_LEAST), self.longest)
        return min(-(-needed // _CPU_STEP) * _CPU_STEP, self.longest)
