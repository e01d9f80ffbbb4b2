"""One optimizer step of any method, on policy, a micro-batch at a time.

What `training.update` does for the methods whose loss is `training.objective`'s, without its guards; the rivals' own
latent terms come on top. Leaves out which rollouts there are (`loop`, `real.ways`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.learning import gaussian
from benchmarks.learning.methods import Candidate, Method
from benchmarks.learning.rival import latent_loss, one_sided_loss
from benchmarks.learning.sampler import Answered
from training.models.head import take_apart
from training.models.policy import Policy
from training.objective import ObjectiveConfig, objective, step_weights
from training.optimization.batches import micro_batches
from training.optimization.optimizer import MasterOptimizer
from training.replay import replay
from training.shared_prompts import executed_length

Pull = tuple[Tensor, Tensor]  # advantages and step weights, [B] each
RIVALS = {"gumbel_density": latent_loss, "one_sided_density": one_sided_loss}


def objective_of(method: Method) -> ObjectiveConfig:
    """How a method's objective differs from the published one."""
    return ObjectiveConfig(latent_gradient=method.learns == "soft_label", latent_scale=method.latent_scale)


def take_step(
    policy: Policy,
    optimizer: MasterOptimizer,
    candidate: Candidate,
    answers: Sequence[Answered],
    advantages: Sequence[float],
    positions: int = 2**20,
) -> None:
    """Take one on-policy step on the rollouts whose groups have signal; at most `positions` padded ones at a time."""
    rollouts = [one.rollout for one in answers]
    lengths = [one.latent_length + one.answer_length for one in rollouts]
    weights_B = step_weights(lengths, objective_of(candidate.method))
    advantages_B = torch.tensor(advantages, dtype=torch.float64)
    pulls = [index for index in range(len(answers)) if advantages[index] != 0]
    if not pulls:
        return
    optimizer.begin()
    for bucket in micro_batches([executed_length(rollouts[index]) for index in pulls], positions):
        chosen = sorted(pulls[index] for index in bucket)
        pull = advantages_B[chosen], weights_B[chosen]
        loss_of(policy, candidate.method, [answers[index] for index in chosen], pull).backward()  # type: ignore[no-untyped-call]
        optimizer.gather()
    optimizer.clip()
    optimizer.step(candidate.rate, undoable=False)


def loss_of(policy: Policy, method: Method, answers: Sequence[Answered], pull: Pull) -> Tensor:
    """Return a method's loss, a scalar, differentiable."""
    rollouts = [one.rollout for one in answers]
    if method.noise in {"gaussian", "dropout"}:
        executed = [one.executed_LD for one in answers]
        spread = method.spread if method.learns == "gaussian_density" else None
        return gaussian.loss(policy.model, rollouts, executed, pull, spread)
    replayed = replay(take_apart(policy.model), rollouts)
    loss, _ = objective(replayed, *pull, objective_of(method))
    if method.learns in RIVALS:
        loss = loss + RIVALS[method.learns](replayed, [one.scores_LK for one in answers], rollouts, *pull)
    return loss
