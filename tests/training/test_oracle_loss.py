"""Losses and gradients against the numbers of an independent implementation (tests/oracle/README.md), in float64.

Its rows become rollouts: padding is cut off, the mask becomes the answer's length. Two of its habits are put back by a
hook on the backbone, so that everything else runs through our own replay: it counts positions from the left padding
(rotary angles are float32, so this shows at 1e-7), and its mixtures were rounded to float32 when it drew them; ours are
checked against them before they are replaced.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from training.models.head import take_apart
from training.objective import ObjectiveConfig, objective, step_weights
from training.replay import replay
from training.rollout import Rollout
from training.sampling import Sampling
from training.shared_prompts import executed_length

from .rollouts import backward, gradients, norm, relative_difference

ORACLE = Path(__file__).parents[1] / "oracle"
CASES = {"L1_tau1.0_T1.0": (1, 1.0), "L8_tau0.3_T1.0": (8, 0.3)}
NORMALIZATIONS = ["grpo", "bnpo", "dr_grpo"]
PROMPT = 11  # padded prompt positions


@dataclass(frozen=True)
class Case:
    """One case of the oracle, as rollouts."""

    rollouts: list[Rollout]
    advantages_B: Tensor
    inputs: list[Tensor]  # its own executed embeddings [S, D] of each row
    padding: list[int]  # of each row, to the left


def read(name: str) -> Case:
    drawn, scored = (load_file(ORACLE / part / f"{name}.safetensors") for part in ("rollout", "loss"))
    latent_length, tau = CASES[name]
    rollouts, inputs, paddings = [], [], []
    for row in range(len(drawn["prompt_ids"])):
        steps = int(scored["completion_mask"][row].sum())
        latents = min(latent_length, steps)
        padding = PROMPT - int(drawn["prompt_mask"][row].sum())
        latent = slice(PROMPT, PROMPT + latents)
        rollout = Rollout(
            prompt_ids_P=drawn["prompt_ids"][row, padding:].int(),
            latent_ids_LK=drawn["topk_ids"][row, latent].int(),
            latent_weights_LK=drawn["topk_probs"][row, latent],
            latent_logprobs_LK=torch.zeros_like(drawn["topk_probs"][row, latent]),
            latent_log_mass_L=torch.zeros(latents),
            token_ids_T=drawn["completion_ids"][row, latents:steps].int(),
            token_logprobs_T=scored["old_per_token_logps"][row, latents:steps],
            token_log_mass_T=torch.zeros(steps - latents),
            sampling=Sampling(latent_length=latent_length, tau=tau),
            policy_version=0,
            stop_reason="stop",
        )
        rollouts.append(rollout)
        inputs.append(drawn["embeds"][row, padding : padding + executed_length(rollout)].double())
        paddings.append(padding)
    return Case(rollouts, scored["advantages"].double(), inputs, paddings)


@pytest.fixture(scope="module")
def model() -> Any:
    loaded = AutoModelForCausalLM.from_pretrained(ORACLE / "tiny", dtype=torch.float64, attn_implementation="sdpa")
    loaded.train(mode=False)
    return loaded


@contextmanager
def habits_of_the_oracle(model: Any, case: Case) -> Iterator[list[float]]:
    """Its padding and its float32 inputs, row by row; yields the differences between its inputs and ours."""
    gaps: list[float] = []

    def put_back(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        ours_BSD, theirs_BSD = kwargs["inputs_embeds"], kwargs["inputs_embeds"].clone()
        for row, inputs_SD in enumerate(case.inputs):
            gaps.append(float((ours_BSD[row, : len(inputs_SD)] - inputs_SD).abs().max()))
            theirs_BSD[row, : len(inputs_SD)] = inputs_SD
        positions_BS = torch.tensor(case.padding)[:, None] + torch.arange(ours_BSD.shape[1])
        return args, kwargs | {"inputs_embeds": theirs_BSD, "position_ids": positions_BS}

    handle = model.model.register_forward_pre_hook(put_back, with_kwargs=True)
    try:
        yield gaps
    finally:
        handle.remove()


def run(model: Any, name: str, config: ObjectiveConfig) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of the real replay and objective."""
    case, causal = read(name), take_apart(model)
    lengths = [rollout.latent_length + rollout.answer_length for rollout in case.rollouts]
    with habits_of_the_oracle(model, case) as gaps:
        replayed = replay(causal, case.rollouts)
    assert len(gaps) == len(case.rollouts)
    assert 0 < max(gaps) < 1e-6, "the executed inputs must be its mixtures, up to their rounding to float32"
    loss, _ = objective(replayed, case.advantages_B, step_weights(lengths, config), config)
    backward(loss)
    return float(loss.detach()), gradients(model)


@pytest.mark.parametrize("old", ["none", "given"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_theirs(model: Any, name: str, normalization: Any, old: str) -> None:
    config = ObjectiveConfig(
        normalization=normalization,
        max_steps=24,
        negative_latent_floor=float("-inf"),
        old_logprobs="none" if old == "none" else "recorded",
    )
    loss, found = run(model, name, config)
    figures = json.loads((ORACLE / "loss" / "losses.json").read_text())[name]
    expected = figures[f"{normalization}__old_{old}"]["fp64"]
    assert loss == pytest.approx(expected["loss"], rel=1e-9)
    assert norm(found) == pytest.approx(expected["grad_norm"], rel=1e-9)
    if normalization == "grpo":
        theirs = load_file(ORACLE / "grads" / f"{name}__grpo__old_{old}__fp64.safetensors")
        assert relative_difference(found, theirs) < 1e-9


def test_our_own_habits_are_theirs_up_to_float32(model: Any) -> None:
    """Without the hook: positions from 0 and mixtures in float64 move the gradient by float32 rounding only."""
    config = ObjectiveConfig(negative_latent_floor=float("-inf"), old_logprobs="none")
    for name in CASES:
        case = read(name)
        lengths = [rollout.latent_length + rollout.answer_length for rollout in case.rollouts]
        loss, _ = objective(
            replay(take_apart(model), case.rollouts), case.advantages_B, step_weights(lengths, config), config
        )
        backward(loss)
        theirs = load_file(ORACLE / "grads" / f"{name}__grpo__old_none__fp64.safetensors")
        assert relative_difference(gradients(model), theirs) < 5e-6
