"""Which rollouts go through the model together: micro-batches of similar length within a memory budget.

Rollouts of one prompt may share a row (`training.shared_prompts`); packing different prompts into one row is left out.
"""

from collections.abc import Sequence

import torch

from training.rollout import Rollout
from training.shared_prompts import Sharing, row_length, rows_of


def batches_of(rollouts: Sequence[Rollout], positions: int, sharing: Sharing | None) -> list[list[int]]:
    """Bucket rollouts, those that share a row together.

    Args:
        rollouts: any number.
        positions: most padded positions of a micro-batch, > 0.
        sharing: what the model can share.

    Returns:
        Indices of the rollouts of every micro-batch; `replay` with the same `positions` makes the same rows of them.

    """
    rows = rows_of(rollouts, sharing, positions)
    lengths = [row_length([rollouts[index] for index in row]) for row in rows]
    return [[index for row in bucket for index in rows[row]] for bucket in micro_batches(lengths, positions)]


def micro_batches(lengths: Sequence[int], positions: int) -> list[list[int]]:
    """Bucket by length: every micro-batch is at most `positions` padded positions, or one row longer than that.

    Args:
        lengths: positions of each row.
        positions: largest rows * longest, > 0.

    Returns:
        Indices, the longest rows first, so that what does not fit in memory fails at once.

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
