"""Who holds which block of the pool: running answers, prompts under way, and prefixes kept for reuse.

One table for all resident versions. A block is counted once per holder; what several hold is never written again, so
choices of one request and requests of one beginning share blocks without a copy. A block full of known tokens is
*known* by (the block before it, its tokens), the first one by a root that each version has of its own: a hit on another
version's keys cannot be written down, and no hash can collide. A known block that nobody holds any more stays until the
room is needed; the least recently used goes first, and a block is used before those that follow it, so ends go first.
Leaves out the keys and values themselves (`app.decoder.cache`). Only the engine's thread calls it, but for `root`.
"""

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from app.decoder.cache import BLOCK, PADDING

Root = int  # what a chain begins with: a number of a version's own, or that of the block before
Key = tuple[Root, tuple[int, ...]]  # what a known block is known by


class Known(NamedTuple):
    """A block that is known, by the number that those behind it name as theirs before."""

    number: Root
    block: int


class Blocks:
    """Blocks 1 to `count - 1` of a pool; block `PADDING` is nobody's."""

    def __init__(self, count: int, kept: int) -> None:
        """Begin with all blocks free; at most `kept` stay for reuse when nobody holds them."""
        assert count > 1
        self.count = count - 1
        self.hit_tokens = 0  # prompt positions that did not have to be computed, ever
        self._kept = kept
        self._free = [block for block in range(count - 1, -1, -1) if block != PADDING]
        self._holders = [0] * count
        self._known: dict[Key, Known] = {}
        self._keys: dict[int, Key] = {}  # of known blocks
        self._idle: OrderedDict[int, None] = OrderedDict()  # known blocks that nobody holds, next to go first
        self._numbers = itertools.count(1)  # also asked for by the thread that fills a lane

    @property
    def free(self) -> int:
        """Blocks that can be taken now."""
        return len(self._free) + len(self._idle)

    @property
    def held(self) -> int:
        """Blocks that somebody holds."""
        return self.count - self.free

    @property
    def known(self) -> int:
        """Blocks that can be found by their tokens."""
        return len(self._known)

    def root(self) -> Root:
        """Give a number that no chain has begun with: what was known from another root is not found from this one."""
        return next(self._numbers)

    def take(self, count: int) -> list[int] | None:
        """Hold so many blocks of unknown content; None if there are not as many."""
        if count > self.free:
            return None
        return [self._take() for _ in range(count)]

    def share(self, blocks: Sequence[int]) -> None:
        """Hold blocks that somebody else holds too, or that nobody does and are known."""
        for block in blocks:
            self._holders[block] += 1
            self._idle.pop(block, None)

    def give_back(self, blocks: Sequence[int]) -> None:
        """Hold blocks no longer; they are in the order of their positions."""
        for block in reversed(blocks):  # the last one first: it is the next to go
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if block in self._keys and self._kept:
                self._idle[block] = None
            else:
                self._forget(block)
                self._free.append(block)
        while len(self._idle) > self._kept:
            self._free.append(self._oldest())

    def shared(self, block: int) -> bool:
        """Whether a block must not be written: others hold it too, or may find it."""
        return self._holders[block] > 1 or block in self._keys

    def find(self, root: Root, ids: Sequence[int]) -> list[Known]:
        """Find the known blocks that `ids` begin with."""
        found: list[Known] = []
        for start in range(0, len(ids) - BLOCK + 1, BLOCK):
            one = self._known.get((root, tuple(ids[start : start + BLOCK])))
            if one is None:
                break
            found.append(one)
            root = one.number
        return found

    def know(self, root: Root, ids: Sequence[int], block: int) -> Root:
        """Let a block that is full and held be found by its tokens; one that is known by them already stays the one.

        Args:
            root: the version's, or the number of the block before.
            ids: its tokens, BLOCK of them.
            block: which one.

        Returns:
            the number that the block behind it has for its root.

        """
        key = (root, tuple(ids))
        found = self._known.get(key)
        if found is None and block not in self._keys:
            found = self._known[key] = Known(self.root(), block)
            self._keys[block] = key
        return self.root() if found is None else found.number

    def _take(self) -> int:
        block = self._free.pop() if self._free else self._oldest()
        self._holders[block] = 1
        return block

    def _oldest(self) -> int:
        block, _ = self._idle.popitem(last=False)
        self._forget(block)
        return block

    def _forget(self, block: int) -> None:
        key = self._keys.pop(block, None)
        if key is not None:
            del self._known[key]
