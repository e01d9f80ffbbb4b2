"""The optimizer steps of an update, laid out before any is taken: their rollouts, what each weighs, the micro-batches.

Micro-batches only split a sum, so their size changes no gradient but by the rounding of sums. Leaves out how large one
may be (`training.memory.footprint`) and how its gradient is taken (`training.optimization.gradient`).

Axes: B rollouts of one step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.objective import ObjectiveConfig, step_weights
from training.optimization.batches import batches_of, minibatches
from training.rollout import Rollout
from training.shared_prompts import Sharing, row_length, rows_of


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One optimizer step, planned."""

    rollouts: list[Rollout]  # B of them
    advantages_B: Tensor  # float64 [B]
    weights_B: Tensor  # float64 [B], from `step_weights`
    buckets: list[list[int]]  # indices of the rollouts that pull, by micro-batch; of all processes
    places: list[int]  # where each rollout stands in the whole batch


@dataclass(frozen=True, slots=True)
class Passes:
    """How often a batch is gone through.

    Example: `Passes(epochs=2, minibatches=4, seed=17)` takes eight optimizer steps.
    """

    epochs: int  # passes over the batch, > 0
    minibatches: int  # optimizer steps per pass, > 0
    seed: int  # names the first pass's shuffle into minibatches; the next has the next seed


def steps_of(
    rollouts: Sequence[Rollout],
    advantages: Sequence[float],
    objective: ObjectiveConfig,
    passes: Passes,
    positions: int,
    sharing: Sharing | None = None,
) -> Iterator[Step]:
    """Lay out the steps of a batch.

    Args:
        rollouts: the batch.
        advantages: one per rollout.
        objective: says what a step weighs, and whether rollouts without an advantage are run.
        passes: how often.
        positions: largest micro-batch, padded positions, > 0.
        sharing: how rollouts of one prompt share a row.

    """
    for epoch in range(passes.epochs):
        for part in minibatches(len(rollouts), passes.minibatches, passes.seed + epoch):
            chosen = [rollouts[index] for index in part]
            lengths = [rollout.latent_length + rollout.answer_length for rollout in chosen]
            advantages_B = torch.tensor([advantages[index] for index in part], dtype=torch.float64)
            pulls = [
                index for index in range(len(part)) if lengths[index] and (objective.beta or advantages_B[index] != 0)
            ]
            buckets = batches_of([chosen[index] for index in pulls], positions, sharing)
            indices = [[pulls[index] for index in bucket] for bucket in buckets]
            yield Step(chosen, advantages_B, step_weights(lengths, objective), indices, part)


def padding_share(steps: Sequence[Step], positions: int, sharing: Sharing | None = None) -> float:
    """Share of all padded positions that hold nothing, in [0, 1)."""
    held, padded = 0, 0
    for step in steps:
        for bucket in step.buckets:
            rollouts = [step.rollouts[index] for index in bucket]
            rows = rows_of(rollouts, sharing, positions)
            lengths = [row_length([rollouts[index] for index in row]) for row in rows]
            held, padded = held + sum(lengths), padded + len(lengths) * max(lengths)
    return 1.0 - held / padded if padded else 0.0
