"""One sampler for every method: static batches of one prompt length, a stock forward, and the method's latent step.

Token steps, and latent steps with Gumbel noise, are `training.latent.draw`; the other latent steps are here.
Rows that have ended stay in the batch, frozen, until all have. Leaves out grading.

Axes: B rows, P prompt tokens, L latent steps, K candidates, T answer tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from benchmarks.learning.gaussian import kept_entries, noise_like, sigma_of
from benchmarks.learning.methods import Method
from training.controls import Controls, controls_for
from training.draw import Drawn, averaged_weights, draw, read_out
from training.latent import Support, mix, support
from training.models.policy import Policy, embedding
from training.noise import gumbel, step_key
from training.placement import ANSWER, Placement, placement_of
from training.rollout import Rollout, trimmed
from training.sampling import Sampling

CLAMP = (-1.5, 3.0)  # SofT-GRPO (arXiv:2511.06411) cuts its Gumbel noise to this
BEFORE_NOISE = 30  # candidates that the noise of "one_sided" chooses among
NEG_INF = float("-inf")


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """A rollout, and what rivals' densities need of its latent steps besides."""

    rollout: Rollout
    scores_LK: Tensor  # float32 [L, K], perturbed, as wide as the rollout's candidates; -inf outside the support
    executed_LD: Tensor  # float32 [L, D], the input embeddings as executed


def sampling_of(method: Method, seed: int = 0) -> Sampling:
    """Return the settings a method's rollouts are drawn with: temperature 1, top-k 30, top-p 0.95."""
    return Sampling(latent_length=method.latent_length, tau=method.tau, seed=seed, draws=method.draws)


@torch.no_grad()
def answer(
    policy: Policy, prompts: Sequence[Sequence[int]], method: Method, samplings: Sequence[Sampling], budget: int
) -> list[Answered]:
    """Answer prompts of one length, each with its own seed; `budget` is the most tokens after the latent steps."""
    length = samplings[0].latent_length
    placed = placement_of(method.placement, policy.tokenizer) if length else ANSWER
    lead_in = placed.before(prompts[0])
    table, prompt_ids_BP = embedding(policy), torch.tensor([[*prompt, *lead_in] for prompt in prompts])
    lead_out_BO = torch.tensor(placed.lead_out_ids, dtype=torch.int64).expand(len(prompts), -1)
    controls = controls_for(samplings, policy.device)
    cache = DynamicCache(config=policy.model.config)
    inputs = table(prompt_ids_BP)
    latents: list[tuple[Drawn, Tensor]] = []
    executed: list[Tensor] = []
    tokens: list[Drawn] = []
    ended_B = torch.zeros(len(prompts), dtype=torch.bool)
    ends = torch.tensor(sorted(policy.eos_ids))
    for step in range(length + budget):
        output = policy.model(inputs_embeds=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        at = step if step < length else step + len(placed.lead_out_ids)
        step_B1 = torch.full_like(controls.stream_B1, at)
        if step < length:
            latents.append(latent_step(method, output.logits[:, -1], controls, step_B1))
            mixed_BD = mix(table, latents[-1][0].ids_BK, latents[-1][1])
            if samplings[0].temperature:
                mixed_BD = disturbed(method, mixed_BD, table, controls, step_B1)
            executed.append(mixed_BD)
            inputs = executed[-1][:, None]
            if step + 1 == length:
                inputs = torch.cat([inputs, table(lead_out_BO)], dim=1)
            continue
        tokens.append(draw(output.logits[:, -1], controls, step_B1, samplings[0].top_k))
        ended_B |= torch.isin(tokens[-1].token_B1[:, 0], ends)
        if ended_B.all():
            break
        inputs = table(tokens[-1].token_B1)
    return _records(policy, prompt_ids_BP, (placed, len(lead_in)), samplings, latents, executed, tokens)


def disturbed(method: Method, mixed_BD: Tensor, table: nn.Embedding, controls: Controls, step_B1: Tensor) -> Tensor:
    """Add the noise of the methods whose noise is on the mean embedding."""
    if method.noise == "gaussian":
        key_B1 = step_key(controls.stream_B1, step_B1)
        return mixed_BD + noise_like(mixed_BD, key_B1, sigma_of(table, method.spread))
    if method.noise == "dropout":
        return mixed_BD * kept_entries(mixed_BD, controls.stream_B1, method.spread)
    return mixed_BD


def latent_step(method: Method, logits_BV: Tensor, controls: Controls, step_B1: Tensor) -> tuple[Drawn, Tensor]:
    """Draw one latent step of every row as the method does, and the weights [B, K] of its mixture."""
    if method.noise == "gumbel":
        drawn = draw(logits_BV, controls, step_B1, method.latent_top_k)
        return drawn, averaged_weights(drawn, controls, step_B1, method.draws)
    if method.noise == "one_sided":
        return one_sided_step(method, logits_BV, controls, step_B1)
    kept = support(logits_BV, controls, method.latent_top_k)
    if method.noise in {"none", "gaussian", "dropout"}:
        scores_BK, tau_B1 = kept.logprobs_BK, torch.ones_like(controls.tau_B1)
    else:
        noise_BK = gumbel(step_key(controls.stream_B1, step_B1), kept.ids_BK)
        scores_BK, tau_B1 = kept.logprobs_BK + noise_BK.clamp(*CLAMP), controls.tau_B1
    drawn = read_out(kept, scores_BK, tau_B1)
    return drawn, drawn.weights_BK


def one_sided_step(method: Method, logits_BV: Tensor, controls: Controls, step_B1: Tensor) -> tuple[Drawn, Tensor]:
    """Draw a step of Latent-GRPO (arXiv:2604.27998): noise from 0 to 4.5 on log pi, then the largest scores.

    The nucleus holds at least as many candidates as are kept, but where the row is greedy: one. What is recorded as
    pi~ of a kept candidate may lie outside of it, so that it does not sum to 1.
    """
    wide = support(logits_BV, controls, BEFORE_NOISE)
    rank_K = torch.arange(wide.ids_BK.shape[1])
    inside_BK = (wide.logprobs_BK > NEG_INF) | ((rank_K < method.latent_top_k) & (rank_K < controls.top_k_B1))
    noise_BK = gumbel(step_key(controls.stream_B1, step_B1), wide.ids_BK).clamp(*CLAMP) - CLAMP[0]
    scores_BK = (wide.full_BK + noise_BK).masked_fill(~inside_BK, NEG_INF)
    top = scores_BK.topk(min(method.latent_top_k, scores_BK.shape[1]), dim=-1)
    full_BK = wide.full_BK.gather(1, top.indices)
    logprobs_BK = (full_BK - wide.log_mass_B1).masked_fill(top.values == NEG_INF, NEG_INF)
    kept = Support(wide.ids_BK.gather(1, top.indices), logprobs_BK, full_BK, wide.log_mass_B1)
    drawn = read_out(kept, top.values, controls.tau_B1)
    return drawn, drawn.weights_BK


def _records(
    policy: Policy,
    prompt_ids_BP: Tensor,
    around: tuple[Placement, int],
    samplings: Sequence[Sampling],
    latents: list[tuple[Drawn, Tensor]],
    executed: list[Tensor],
    tokens: list[Drawn],
) -> list[Answered]:
    """Write down each row, cut at its first end of sequence; around its latents: where they sat, and their lead-in."""
    token_ids_BT = torch.cat([one.token_B1 for one in tokens], 1).int()
    logprobs_BT = torch.cat([one.token_logprob_B1 for one in tokens], 1).float()
    token_mass_BT = torch.cat([one.log_mass_B1 for one in tokens], 1).float()
    rows = len(samplings)
    empty = torch.empty(rows, 0, 0)
    ids_BLK, weights_BLK, latent_BLK, scores_BLK = (
        (
            torch.stack([one.ids_BK for one, _ in latents], 1).int(),
            torch.stack([weights_BK for _, weights_BK in latents], 1),
            torch.stack([one.logprobs_BK for one, _ in latents], 1).float(),
            torch.stack([one.scores_BK for one, _ in latents], 1).float(),
        )
        if latents
        else (empty.int(), empty, empty, empty)
    )
    executed_BLD = torch.stack(executed, 1) if executed else empty
    mass_BL = torch.cat([one.log_mass_B1 for one, _ in latents], 1).float() if latents else torch.empty(rows, 0)
    answered = []
    for row in range(rows):
        ids = token_ids_BT[row].tolist()
        end = next((at + 1 for at, token in enumerate(ids) if token in policy.eos_ids), None)
        ids_LK, weights_LK, logprobs_LK = trimmed(ids_BLK[row], weights_BLK[row], latent_BLK[row])
        rollout = Rollout(
            prompt_ids_P=prompt_ids_BP[row].int(),
            latent_ids_LK=ids_LK,
            latent_weights_LK=weights_LK,
            latent_logprobs_LK=logprobs_LK,
            latent_log_mass_L=mass_BL[row],
            token_ids_T=token_ids_BT[row, :end],
            token_logprobs_T=logprobs_BT[row, :end],
            token_log_mass_T=token_mass_BT[row, :end],
            sampling=samplings[row],
            policy_version=policy.version,
            stop_reason="length" if end is None else "stop",
            placement=around[0].name,
            lead_in=around[1],
            lead_out_ids_O=torch.tensor(around[0].lead_out_ids, dtype=torch.int32),
        )
        answered.append(Answered(rollout, scores_BLK[row][:, : ids_LK.shape[1]], executed_BLD[row]))
    return answered


def seeded(sampling: Sampling, seeds: Sequence[int]) -> list[Sampling]:
    """Give each row its own seed."""
    return [replace(sampling, seed=seed) for seed in seeds]
