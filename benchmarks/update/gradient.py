"""Two ways to one gradient: the learner's, and the one that everybody writes first.

The straightforward way pads the whole batch, asks the stock model for all its logits, turns them into float32
log-probabilities [B, S, V], and picks what the objective needs. The objective itself is the same function for both, so
what differs is only how log-probabilities come about. Leaves out the optimizer's step, which is the same for both.

Axes: B rollouts, S executed positions, N steps in a row, K candidates, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.update.load import Load, advantages_of
from training.executed import Steps, collate
from training.models.head import take_apart
from training.objective import ObjectiveConfig, objective, step_weights
from training.optimization.batches import batches_of
from training.replay import ReplayConfig, Replayed, padded, replay
from training.rollout import Rollout
from training.scoring import Scores

OBJECTIVE = ObjectiveConfig(old_logprobs="none")  # one on-policy step
Way = Callable[[PreTrainedModel, Sequence[Rollout], Load], float]  # leaves gradients in the model, gives the loss


def ours(model: PreTrainedModel, rollouts: Sequence[Rollout], load: Load) -> float:
    """As `training.update.Learner` does: micro-batches by length, the head only where a step is, in chunks."""
    causal, config = take_apart(model), ReplayConfig(chunk_elements=load.chunk_elements)
    advantages_B, weights_B = _weights(rollouts)
    total = 0.0
    for bucket in batches_of(rollouts, load.positions, causal.sharing):
        replayed = replay(causal, [rollouts[index] for index in bucket], config, positions=load.positions)
        loss, _ = objective(replayed, advantages_B[bucket], weights_B[bucket], OBJECTIVE)
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total


def straightforward(model: PreTrainedModel, rollouts: Sequence[Rollout], _load: Load) -> float:
    """One padded batch, all its logits, all their log-probabilities."""
    advantages_B, weights_B = _weights(rollouts)
    batch = collate(rollouts, model.device)
    with torch.no_grad():
        inputs_BSD = batch.inputs(model.get_input_embeddings())  # type: ignore[arg-type]
    stock: Any = model
    logprobs_BSV = stock(inputs_embeds=inputs_BSD, use_cache=False).logits.float().log_softmax(-1)

    def picked(steps: Steps) -> Scores:
        logprobs_NK = logprobs_BSV[steps.row_N[:, None], steps.predictor_N[:, None], steps.ids_NK]
        none_N = torch.zeros(len(steps.row_N), device=model.device)
        return Scores(logprobs_NK, none_N, none_N)

    replayed: Replayed = padded(batch, picked(batch.latents), picked(batch.tokens))
    loss, _ = objective(replayed, advantages_B, weights_B, OBJECTIVE)
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


WAYS: dict[str, Way] = {"ours": ours, "straightforward": straightforward}


def _weights(rollouts: Sequence[Rollout]) -> tuple[Tensor, Tensor]:
    """Advantages and step weights, float64 [B] each."""
    steps = [rollout.latent_length + rollout.answer_length for rollout in rollouts]
    return torch.tensor(advantages_of(len(rollouts)), dtype=torch.float64), step_weights(steps, OBJECTIVE)
