"""Prompt prefixes kept for reuse: keys and values in blocks, found by the exact tokens before them.

A block is known by (the block before it, its tokens), not by a hash that could collide. The cache belongs to one lane
and is dropped with its weights, so a stale hit cannot be written down. Only prompt positions enter, so it never holds a
latent step. The least recently used block goes first; a block is used before the blocks that need it, so leaves go.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch

from app.decoder.cache import KVPool, LayerShape

BLOCK = 16  # positions per block

Key = tuple[int, tuple[int, ...]]  # serial number of the block before (0: none), and the block's token ids


class PrefixCache:
    """Blocks of prompt positions of one policy version."""

    def __init__(self, layers: Sequence[LayerShape], tokens: int) -> None:
        self.capacity = tokens // BLOCK
        self.hit_tokens = 0  # prompt positions that did not have to be computed
        self.asked_tokens = 0  # prompt positions looked up
        self._pool = KVPool(layers, max(self.capacity, 1), BLOCK)
        self._blocks: OrderedDict[Key, tuple[int, int]] = OrderedDict()  # key -> (serial, row of the pool)
        self._free = list(range(self.capacity))
        self._serial = 0

    @property
    def tokens(self) -> int:
        """Positions held."""
        return len(self._blocks) * BLOCK

    def drop(self) -> None:
        """Forget everything: the weights are about to change."""
        self._blocks.clear()
        self._free = list(range(self.capacity))

    def load(self, ids: Sequence[int], pool: KVPool, row: int) -> int:
        """Copy the longest known prefix of `ids` into a row.

        Returns:
            positions copied, a multiple of BLOCK.

        """
        found = self._walk(ids)
        self.asked_tokens += len(ids)
        self.hit_tokens += len(found) * BLOCK
        if found:
            blocks = [self._blocks[key][1] for key in found]
            for mine, theirs in zip(self._pool.groups, pool.groups, strict=True):
                theirs[:, row, :, : len(found) * BLOCK] = mine[:, blocks].transpose(1, 2).flatten(2, 3)
        self._touch(found)
        return len(found) * BLOCK

    def match(self, ids: Sequence[int]) -> int:
        """Positions of `ids` that are known, without using them."""
        return len(self._walk(ids)) * BLOCK

    def store(self, ids: Sequence[int], pool: KVPool, row: int) -> None:
        """Keep the full blocks of `ids`, computed in `row`, as far as there is room."""
        parent, keys = 0, []
        fresh: list[tuple[int, int]] = []  # (block's place in the prompt, row of the pool)
        for place in range(min(len(ids) // BLOCK, self.capacity)):
            key = (parent, tuple(ids[place * BLOCK : (place + 1) * BLOCK]))
            if key not in self._blocks:
                self._serial += 1
                self._blocks[key] = (self._serial, self._take())
                fresh.append((place, self._blocks[key][1]))
            self._blocks.move_to_end(key)
            parent = self._blocks[key][0]
            keys.append(key)
        self._touch(keys)
        if fresh:
            places = torch.tensor([place for place, _ in fresh])
            self._copy_in(pool, row, places, [block for _, block in fresh])

    def _copy_in(self, pool: KVPool, row: int, places: torch.Tensor, blocks: list[int]) -> None:
        for mine, theirs in zip(self._pool.groups, pool.groups, strict=True):
            whole = theirs.shape[3] // BLOCK
            in_blocks = theirs[:, row, :, : whole * BLOCK].unflatten(2, (whole, BLOCK))  # type: ignore[no-untyped-call]
            mine[:, blocks] = in_blocks[:, :, places.to(theirs.device)].transpose(1, 2)

    def _walk(self, ids: Sequence[int]) -> list[Key]:
        """Keys of the known blocks from the start of `ids`."""
        parent, found = 0, []
        for start in range(0, len(ids) - BLOCK + 1, BLOCK):
            key = (parent, tuple(ids[start : start + BLOCK]))
            if key not in self._blocks:
                break
            parent = self._blocks[key][0]
            found.append(key)
        return found

    def _touch(self, keys: Sequence[Key]) -> None:
        """Mark a chain as used, its root last, so that leaves are the first to go."""
        for key in reversed(keys):
            self._blocks.move_to_end(key)

    def _take(self) -> int:
        """Give a row of the pool: a free one, else the least recently used block's."""
        if self._free:
            return self._free.pop()
        _, (_, row) = self._blocks.popitem(last=False)
        return row
