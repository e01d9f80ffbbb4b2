"""Which rollouts go through the model together: micro-batches of similar length within a memory budget.

Leaves out packing several rollouts into one row: it needs block masks that not every stock model takes.
"""

from collections.abc import Sequence

import torch


def micro_batches(lengths: Sequence[int], positions: int) -> list[list[int]]:
    """Bucket by length: every micro-batch is at most `positions` padded positions, or one rollout longer than that.

    Args:
        lengths: executed positions of each rollout.
        positions: largest rows * longest, > 0.

    Returns:
        Indices, the longest rollouts first, so that what does not fit in memory fails at once.

    """
    buckets: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if buckets and (len(buckets[-1]) + 1) * lengths[buckets[-1][0]] <= positions:
            buckets[-1].append(index)
        else:
            buckets.append([index])
    return buckets


def minibatches(total: int, parts: int, seed: int) -> list[list[int]]:
    """Split a batch at random into `parts` minibatches of nearly equal size; one part keeps the order.

    Args:
        total: rollouts in the batch.
        parts: optimizer steps per pass, > 0; never more than rollouts.
        seed: names the shuffle.

    """
    parts = min(parts, total)
    if parts <= 1:
        return [list(range(total))]
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).tolist()
    return [sorted(order[part::parts]) for part in range(parts)]
