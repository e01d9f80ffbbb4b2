"""How many positions a step looks at: the rows' longest, rounded up to whole blocks.

On a CPU to the next block, which wastes little; on a GPU to the next power of two, so that few CUDA graphs serve all
lengths.
"""

from dataclasses import dataclass

from app.decoder.cache import BLOCK, blocks_for

_GPU_LEAST = 128


@dataclass(frozen=True, slots=True)
class Lengths:
    """Buckets of length up to a longest one."""

    positions: int  # of an answer, prompt included
    graphed: bool  # whether CUDA graphs are captured per bucket

    @property
    def blocks(self) -> int:
        """Blocks that the longest answer takes."""
        return blocks_for(self.positions)

    @property
    def longest(self) -> int:
        """The longest bucket."""
        return self.blocks * BLOCK

    def bucket(self, needed: int) -> int:
        """Smallest bucket that holds `needed` positions."""
        assert 0 < needed <= self.longest
        if self.graphed:
            return min(max(1 << (needed - 1).bit_length(), _GPU_LEAST), self.longest)
        return blocks_for(needed) * BLOCK
