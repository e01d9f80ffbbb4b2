"""No key may own a batch: how many interactions each API key contributes, and which of the surplus stay out.

Poisoning needs few examples (1 to 5% of preference data is enough), so one key's share of what is learned is bounded
whenever more than one key has graded. A lone key is not bounded: it is its own service. The surplus is skipped for good
and not kept for later, or a flooding key would own a later batch, alone. Which of a key's interactions stay is drawn at
random, so that flooding cannot choose either.
"""

import random
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def key_limit(counts: Mapping[str, int], share: float) -> int:
    """Find how many interactions one key may contribute.

    The largest m with m <= share * (sum over keys of min(count, m)): after the cut no key holds more than its share. A
    share no m can meet (less than 1 / number of keys) gives equal parts.

    Args:
        counts: interactions per key, each >= 1.
        share: in [0, 1].

    """
    if len(counts) < 2:
        return max(counts.values(), default=0)
    smallest = min(counts.values())
    for limit in range(max(counts.values()), smallest, -1):
        if limit <= share * sum(min(count, limit) for count in counts.values()):
            return limit
    return smallest


def usable(counts: Mapping[str, int], share: float) -> int:
    """How many interactions would be left after the cut."""
    limit = key_limit(counts, share)
    return sum(min(count, limit) for count in counts.values())


def cut(
    items: Sequence[Item], keys: Sequence[str], groups: Sequence[Hashable], share: float, rng: random.Random
) -> tuple[list[Item], list[Item]]:
    """Keep each key within its share; answers to one prompt stay together as far as the limit allows.

    Args:
        items: what is to be cut.
        keys: the API key of each item.
        groups: the group of each item (the response it came in).
        share: largest share of one key, in [0, 1].
        rng: decides which groups of a key with too many stay.

    Returns:
        kept and surplus, each in the order of `items`.

    """
    limit = key_limit(Counter(keys), share)
    rank = {group: rng.random() for group in dict.fromkeys(groups)}
    order = sorted(range(len(items)), key=lambda index: (rank[groups[index]], index))
    taken: Counter[str] = Counter()
    kept: set[int] = set()
    for index in order:
        if taken[keys[index]] < limit:
            taken[keys[index]] += 1
            kept.add(index)
    inside = [item for index, item in enumerate(items) if index in kept]
    surplus = [item for index, item in enumerate(items) if index not in kept]
    return inside, surplus
