"""The gradient of an optimizer step, added up a micro-batch at a time; one that memory does not hold is done in halves.

Where memory runs out in a backward pass, some weights have that micro-batch's gradient already and others have not. So
its halves give theirs to the others alone: every weight gets every rollout's gradient once, and what was done before
stays. Nothing is copied for it. One rollout alone that does not fit is the caller's error, as is anything else.

Several processes, or devices, run one graph together, and none of them can go back alone: there the error goes on.
Leaves out laying out micro-batches (`training.optimization.steps`) and the optimizer's step
(`training.optimization.optimizer`).

Axes: B rollouts of a micro-batch, T answer tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from training.distill import Correction, DistillConfig, distill
from training.distill import Target as DistillTarget
from training.distributed.ranks import Ranks
from training.memory.room import give_back, says_short_of_memory
from training.models.head import CausalLM
from training.objective import ObjectiveConfig, Tally, objective
from training.optimization.optimizer import MasterOptimizer
from training.optimization.steps import Step
from training.replay import ReplayConfig, replay
from training.sampling import Target

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Loss:
    """What is differentiated."""

    replay: ReplayConfig
    objective: ObjectiveConfig
    distill: DistillConfig
    target: Target | None  # whose sampling learns; None: each rollout's own
    positions: int = 0  # of a micro-batch: rollouts of one prompt share rows of at most so many; 0: none does


class Gradient:
    """Adds gradients to those that the optimizer holds."""

    def __init__(
        self,
        policy: CausalLM,
        reference: CausalLM | None,
        loss: Loss,
        optimizer: MasterOptimizer,
        ranks: Ranks,
        ask: Callable[[], None],
    ) -> None:
        """Take what a gradient is made of.

        Args:
            policy: the model that learns.
            reference: of the KL term, where there is one.
            loss: what is differentiated.
            optimizer: holds the gradients.
            ranks: the processes that learn together.
            ask: called before every micro-batch and every part of one; what it raises ends the update.

        """
        self.halved = 0  # micro-batches, or parts of one, that memory did not hold
        self._policy = policy
        self._reference = reference
        self._loss = loss
        self._optimizer = optimizer
        self._ranks = ranks
        self._ask = ask
        self._divisible = ranks.size == 1 and len({one.device for one in policy.model.parameters()}) == 1

    def add(self, step: Step, bucket: list[int], start: Sequence[Tensor] | None) -> tuple[Tensor, Tally]:
        """Add one micro-batch's gradient.

        Args:
            step: the optimizer step.
            bucket: which of its rollouts.
            start: log-probabilities of every rollout of the batch before the first step, [T] each, where ratios are
                taken against them.

        Returns:
            Its loss, float64, and what the objective saw.

        """
        parts = self._in_parts(bucket, lambda part: self._of_policy(step, part, start))
        losses, tallies = zip(*parts, strict=True)
        return torch.stack(losses).sum(), sum(tallies, start=Tally.empty())

    def add_corrections(
        self, corrections: Sequence[Correction], aims: Sequence[DistillTarget], bucket: list[int]
    ) -> float:
        """Add the gradient of the distillation term of some corrections.

        Args:
            corrections: all of the batch, which the loss is the mean over.
            aims: what each is to become.
            bucket: which of them.

        Returns:
            Their part of the mean cross-entropy, nats per token.

        """

        def backward(part: list[int]) -> float:
            chosen = [corrections[index] for index in part], [aims[index] for index in part]
            loss = distill(self._policy, *chosen, self._loss.replay.chunk_elements) / len(corrections)
            _backward(self._loss.distill.weight * loss)
            return float(loss.detach())

        return sum(self._in_parts(bucket, backward))

    def go_along(self, step: Step) -> None:
        """Put the layers together while others learn from one micro-batch more: forward, and backward with nothing."""
        self._ask()
        [*_, least] = step.buckets[-1]
        replayed = replay(self._policy, [step.rollouts[least]], self._loss.replay, target=self._loss.target)
        _backward(0.0 * (replayed.token_logprobs_BT.sum() + replayed.latent_logprobs_BLK.sum()))
        self._optimizer.gather()

    def _of_policy(self, step: Step, bucket: list[int], start: Sequence[Tensor] | None) -> tuple[Tensor, Tally]:
        """Go forward and backward through one micro-batch, or a part of one."""
        rollouts = [step.rollouts[index] for index in bucket]
        replayed = replay(
            self._policy, rollouts, self._loss.replay, self._reference, self._loss.target, self._loss.positions
        )
        start_BT = None
        if start is not None:
            start_BT = pad_sequence([start[step.places[index]] for index in bucket], batch_first=True)
        pull = step.advantages_B[bucket], step.weights_B[bucket]
        loss, tally = objective(replayed, *pull, self._loss.objective, start_BT)
        _backward(loss * self._ranks.size)  # gradients are averaged over processes, losses add up
        return loss.detach().double(), tally

    def _in_parts(self, bucket: list[int], backward: Callable[[list[int]], T]) -> list[T]:
        """Go backward through a micro-batch, in as many parts as memory asks for; returns what each gave."""
        self._ask()
        marks = self._optimizer.marks()
        try:
            given = backward(bucket)
        except (MemoryError, RuntimeError) as error:
            if not (self._divisible and len(bucket) > 1 and says_short_of_memory(error)):
                raise
        else:
            self._optimizer.gather()
            return [given]
        # Only here has Python let go of the failed pass's graph.
        self.halved += 1
        give_back(self._policy.device)
        middle = (len(bucket) + 1) // 2
        with self._optimizer.sparing(marks):
            return [one for half in (bucket[:middle], bucket[middle:]) for one in self._in_parts(half, backward)]


def _backward(loss: Tensor) -> None:
    """Go backward, unless every weight that the loss depends on has this gradient already."""
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
