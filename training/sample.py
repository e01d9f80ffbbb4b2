"""The reference sampler: one prompt, one answer, the plainest loop that is right.

It is what the engine and the replay are tested against: a stock forward with a stock cache, one position at a time,
the latent step of `training.latent`, and the record of `training.rollout`. Leaves out batching, stop strings and speed.

Axes: P prompt tokens, L latent steps, K candidates, T answer tokens, D hidden size, V vocabulary; B is 1.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import DynamicCache

from training.controls import controls_for
from training.draw import Drawn, averaged_weights, draw
from training.latent import mix
from training.models.policy import Policy, embedding
from training.placement import ANSWER, Placement
from training.rollout import Rollout, StopReason, trimmed
from training.sampling import Sampling

Latent = tuple[Drawn, Tensor]  # a latent step, and the weights [1, K] of its mixture


@torch.no_grad()
def sample(
    policy: Policy,
    prompt_ids: Sequence[int],
    sampling: Sampling,
    max_new: int,
    *,
    ignore_eos: bool = False,
    placement: Placement = ANSWER,
) -> Rollout:
    """Answer one prompt: latent steps where they are placed, then tokens until the end of sequence or the budget.

    Args:
        policy: the weights and their version.
        prompt_ids: at least one token id.
        sampling: settings, the seed included.
        max_new: generated positions, latent steps included, >= 1.
        ignore_eos: go on past the end of sequence.
        placement: where the latent steps sit, if there are any.

    Raises:
        ValueError: an empty prompt or budget.

    """
    if not prompt_ids:
        raise ValueError("prompt_ids is empty: give at least one token id")
    if max_new < 1:
        raise ValueError(f"max_new must be 1 or more, got {max_new}")
    placed = placement if sampling.latent_length else ANSWER
    lead_in = placed.before(prompt_ids)
    prompt_ids_P = torch.tensor([*prompt_ids, *lead_in], dtype=torch.int64, device=policy.device)
    lead_out_ids_O = torch.tensor(placed.lead_out_ids, dtype=torch.int64, device=policy.device)
    latents, tokens, stop_reason = _steps(
        policy, (prompt_ids_P, lead_out_ids_O), sampling, max_new, ignore_eos=ignore_eos
    )
    return replace(
        _record(policy, prompt_ids_P, sampling, latents, tokens, stop_reason),
        placement=placed.name,
        lead_in=len(lead_in),
        lead_out_ids_O=lead_out_ids_O.to(torch.int32).cpu(),
    )


def _steps(
    policy: Policy, given: tuple[Tensor, Tensor], sampling: Sampling, max_new: int, *, ignore_eos: bool
) -> tuple[list[Latent], list[Drawn], StopReason]:
    """Draw step after step, each from the logits of everything executed before it: latent steps, then tokens.

    What is given is the prompt [P] and the lead-out [O], which goes in behind the last latent step. A step's noise has
    the number of its position behind the prompt.
    """
    prompt_ids_P, lead_out_ids_O = given
    table = embedding(policy)
    controls = controls_for([sampling], policy.device)
    cache = DynamicCache(config=policy.model.config)
    next_BTD: Tensor = table(prompt_ids_P)[None]
    latents: list[Latent] = []
    tokens: list[Drawn] = []
    for drawn_before in range(max_new):
        latent = drawn_before < sampling.latent_length
        step = drawn_before + (0 if latent else len(lead_out_ids_O))
        logits_BV = _logits(policy, next_BTD, cache)
        step_B1 = torch.tensor([[step]], device=policy.device)
        drawn = draw(logits_BV, controls, step_B1, sampling.top_k)
        if latent:
            weights_BK = averaged_weights(drawn, controls, step_B1, sampling.draws)
            latents.append((drawn, weights_BK))
            next_BTD = mix(table, drawn.ids_BK, weights_BK)[:, None]
            if drawn_before + 1 == sampling.latent_length:
                next_BTD = torch.cat([next_BTD, table(lead_out_ids_O)[None]], dim=1)
            continue
        tokens.append(drawn)
        if not ignore_eos and int(drawn.token_B1) in policy.eos_ids:
            return latents, tokens, "stop"
        next_BTD = table(drawn.token_B1)
    return latents, tokens, "length"


def _logits(policy: Policy, inputs_BTD: Tensor, cache: DynamicCache) -> Tensor:
    """Logits [B, V] of the last position, with the cache grown by these inputs."""
    output = policy.model(inputs_embeds=inputs_BTD, past_key_values=cache, use_cache=True)
    logits_BV: Tensor = output.logits[:, -1]
    return logits_BV


def _record(
    policy: Policy,
    prompt_ids_P: Tensor,
    sampling: Sampling,
    latents: list[Latent],
    tokens: list[Drawn],
    stop_reason: StopReason,
) -> Rollout:
    """Write down what was drawn."""
    ids_LK, weights_LK, logprobs_LK = trimmed(
        _column([drawn.ids_BK for drawn, _ in latents], torch.int32),
        _column([weights_BK for _, weights_BK in latents], torch.float32),
        _column([drawn.logprobs_BK for drawn, _ in latents], torch.float32),
    )
    return Rollout(
        prompt_ids_P=prompt_ids_P.to(torch.int32).cpu(),
        latent_ids_LK=ids_LK,
        latent_weights_LK=weights_LK,
        latent_logprobs_LK=logprobs_LK,
        latent_log_mass_L=_column([drawn.log_mass_B1 for drawn, _ in latents], torch.float32).flatten(),
        token_ids_T=_column([drawn.token_B1 for drawn in tokens], torch.int32).flatten(),
        token_logprobs_T=_column([drawn.token_logprob_B1 for drawn in tokens], torch.float32).flatten(),
        token_log_mass_T=_column([drawn.log_mass_B1 for drawn in tokens], torch.float32).flatten(),
        sampling=sampling,
        policy_version=policy.version,
        stop_reason=stop_reason,
    )


def _column(rows: list[Tensor], dtype: torch.dtype) -> Tensor:
    """Rows of B = 1 under each other, on the CPU; [0, 0] when there are none."""
    return torch.cat(rows).to(dtype).cpu() if rows else torch.empty(0, 0, dtype=dtype)
