"""A curve as one line of characters, for terminals."""

from collections.abc import Sequence
from typing import Final

BLOCKS: Final = "▁▂▃▄▅▆▇█"
WIDTH: Final = 56


def sparkline(values: Sequence[float]) -> str:
    """Draw values in [0, 1] as a line of blocks, at most WIDTH wide."""
    step = max(1, -(-len(values) // WIDTH))
    return "".join(BLOCKS[min(len(BLOCKS) - 1, int(value * len(BLOCKS)))] for value in values[::step])
