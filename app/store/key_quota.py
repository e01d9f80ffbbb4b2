"""No API key may own what is learned: how many answers each key contributes to a batch, and which ones.

Poisoning needs few examples (1 to 5% of preference data is enough), so one key's share of a batch is bounded whenever
more than one key has graded. A lone key is not bounded: it is its own service. What is over the bound waits; it is
never spent for it. Which of a key's responses go first is the caller's order. Pure arithmetic; leaves out whom an
answer counts for (`app.store.learnable`).
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Group:
    """Answers that are taken together or not at all: those of one response that can be learned from."""

    name: str  # the response's id
    key: str  # API key they count for; '' if none
    size: int  # answers, >= 1


def key_limit(counts: Mapping[str, int], share: float) -> int:
    """Find how many answers one key may contribute.

    The largest m with m <= share * (sum over keys of min(count, m)): after the cut no key holds more than its share. A
    share no m can meet (less than 1 / number of keys) gives equal parts.

    Args:
        counts: answers per key, each >= 1.
        share: in [0, 1].

    """
    if len(counts) < 2:
        return max(counts.values(), default=0)
    least = min(counts.values())
    return largest(least, max(counts.values()), lambda m: m <= share * capped(counts, m))


def fair_limit(counts: Mapping[str, int], most: int) -> int:
    """Find how many answers one key may contribute so that all keys together fill a batch, the small ones wholly."""
    return largest(1, max(counts.values(), default=1), lambda m: capped(counts, m) <= most)


def capped(counts: Mapping[str, int], limit: int) -> int:
    """Count the answers that are left when each key has at most `limit`."""
    return sum(min(count, limit) for count in counts.values())


def largest(least: int, most: int, holds: Callable[[int], bool]) -> int:
    """Find the largest m up to `most` of which something holds that holds up to some m and never again; or `least`.

    Both conditions here are such: a sum of minima is concave in m, and 0 at 0.
    """
    return least + bisect_left(range(least + 1, most + 1), True, key=lambda m: not holds(m))


def choose(groups: Sequence[Group], most: int, share: float, *, at_least: int = 0) -> list[Group]:
    """Choose groups in their order, every key within its share, and none left out because others fill the batch.

    Args:
        groups: what is offered, those wanted first in front.
        most: answers chosen at most, unless the first group alone is larger.
        share: largest share of one key, in [0, 1].
        at_least: where the share leaves fewer answers than this, the others fill up to it, whoever's they are; 0: the
            share is held to, however little is left.

    Returns:
        The chosen ones, in their order.

    """
    counts: Counter[str] = Counter()
    for one in groups:
        counts[one.key] += one.size
    limit = key_limit(counts, share)
    if len(counts) > 1:
        limit = min(limit, fair_limit(counts, most))
    chosen = _fill(groups, {}, most, limit)
    if sum(one.size for one in chosen.values()) < at_least:
        chosen = _fill(groups, chosen, min(most, at_least), most)
    return [one for one in groups if one.name in chosen]


def _fill(groups: Sequence[Group], taken: Mapping[str, Group], most: int, limit: int) -> dict[str, Group]:
    """Add groups to those taken while the total stays within `most` and each key within `limit`."""
    chosen = dict(taken)
    total = sum(one.size for one in chosen.values())
    counts: Counter[str] = Counter()
    for one in chosen.values():
        counts[one.key] += one.size
    for one in groups:
        fits = total + one.size <= most or not chosen
        within = counts[one.key] + one.size <= limit or not counts[one.key]
        if one.name not in chosen and fits and within:
            chosen[one.name] = one
            counts[one.key] += one.size
            total += one.size
    return chosen
