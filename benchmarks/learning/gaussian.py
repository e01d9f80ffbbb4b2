"""Soft Tokens (arXiv:2509.19170): the mean embedding plus Gaussian noise, learned by the density of what was executed.

A latent step executes e = mu + sigma eps with mu = sum over the support of pi~_k E_k. Its score is that of the normal
density, log N(e; mu, sigma^2 I), with mu a function of the policy. What was executed is no mixture of kept ids, so it
is replayed from the embeddings themselves. Differs from the paper in the baseline: the group's mean and deviation, as
for every method of the bench, and not leave-one-out.

Dropout-GRPO (arXiv:2606.10184) executes the mean embedding through a mask that a rollout keeps, which has no density to
learn from: only the tokens after it teach. Differs from the paper in what is masked: the mixture, not hidden states.

Axes: B rollouts, S executed positions, N steps in a row, K candidates, D hidden size, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from training.executed import Executed, Steps, collate
from training.rollout import Rollout

NEG_INF = float("-inf")


def sigma_of(table: nn.Embedding, spread: float) -> float:
    """Give the standard deviation of the noise: a share of the root mean square of the embedding's entries."""
    return spread * float(table.weight.detach().square().mean().sqrt())


def noise_like(mean_BD: Tensor, keys_B1: Tensor, sigma: float) -> Tensor:
    """Noise for one latent step of every row, [B, D], by the row's own key."""
    draws = []
    for key in keys_B1[:, 0].tolist():
        generator = torch.Generator().manual_seed(key & (2**63 - 1))
        draws.append(torch.randn(mean_BD.shape[1], generator=generator))
    return sigma * torch.stack(draws)


def kept_entries(mean_BD: Tensor, stream_B1: Tensor, dropped: float) -> Tensor:
    """Mask of each row, [B, D], by the row's own key, the same at every step; what stays is scaled up."""
    masks = []
    for key in stream_B1[:, 0].tolist():
        generator = torch.Generator().manual_seed(key & (2**63 - 1))
        masks.append(torch.rand(mean_BD.shape[1], generator=generator) >= dropped)
    return torch.stack(masks).to(mean_BD.dtype) / (1 - dropped)


def loss(
    model: PreTrainedModel,
    rollouts: Sequence[Rollout],
    executed: Sequence[Tensor],
    pulls: tuple[Tensor, Tensor],
    spread: float | None,
) -> Tensor:
    """Return the on-policy loss of both kinds of steps, a scalar, differentiable.

    Args:
        model: the policy that learns.
        rollouts: the support and pi~ of each latent step stand in their latents.
        executed: float32 [L, D] per rollout, what each latent step executed.
        pulls: advantages and step weights, [B] each.
        spread: as given to `sigma_of`; None: latent steps teach nothing.

    """
    batch, pull_B = collate(rollouts, model.device), (pulls[0] * pulls[1]).float()
    table = model.get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    executed_ND = torch.cat(list(executed))
    logprobs_BSV = _logits(model, batch, table, executed_ND).log_softmax(-1)
    latents, tokens = batch.latents, batch.tokens
    token_N = _at(logprobs_BSV, tokens).squeeze(1)
    total: Tensor = (pull_B[tokens.rollout_N] * token_N).sum()
    if spread is not None:
        kept_NK = _at(logprobs_BSV, latents).masked_fill(batch.latent_weights_NK == 0, NEG_INF)
        mean_ND = (kept_NK.softmax(-1)[:, None] @ table(latents.ids_NK).detach()).squeeze(1)
        density_N = -(executed_ND - mean_ND).square().sum(-1) / (2 * sigma_of(table, spread) ** 2)
        total = total + (pull_B[latents.rollout_N] * density_N).sum()
    return -total


def _logits(model: PreTrainedModel, batch: Executed, table: nn.Embedding, executed_ND: Tensor) -> Tensor:
    """Logits of every position, float32 [B, S, V]; inputs are constants, as for every method."""
    with torch.no_grad():
        inputs_BSD = table(batch.input_ids_RS)
        inputs_BSD[batch.latents.row_N, batch.latents.position_N] = executed_ND
    logits_BSV: Tensor = model(inputs_embeds=inputs_BSD, use_cache=False).logits
    return logits_BSV.float()


def _at(logprobs_BSV: Tensor, steps: Steps) -> Tensor:
    """Log-probabilities [N, K] at the candidates of each step."""
    return logprobs_BSV[steps.row_N[:, None], steps.predictor_N[:, None], steps.ids_NK]
