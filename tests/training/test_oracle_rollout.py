"""The latent step against the rollouts of an independent implementation (tests/oracle/README.md).

Its Gumbel noise is fed to our filter, readouts and mixture: first on its recorded logits, then on logits of our own
forward over what it executed. After each step the loop returns to the oracle's embeddings, because a chain of latents
is chaotic: on this model a difference of 1e-6 grows about tenfold per latent step, in its float32 as in ours.

Axes: B rows, P prompt positions (left padded), N steps, V vocabulary, K candidates, D hidden size.
"""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from training.controls import Controls, controls_for
from training.latent import chosen, mix, mixture_weights, perturb, support
from training.sampling import Sampling

EXACT = 1e-6
WIDTH = 30


@dataclass(frozen=True)
class Case:
    latent_length: int
    tau: float
    data: dict[str, Tensor]

    @property
    def controls(self) -> Controls:
        """Settings of the six rows; their noise is not used."""
        sampling = Sampling(latent_length=self.latent_length, tau=self.tau, top_k=30, top_p=0.95)
        return controls_for([sampling] * 6, torch.device("cpu"))


@pytest.fixture(scope="module", params=[(8, 0.3), (1, 1.0)], ids=["L8", "L1"])
def case(request: pytest.FixtureRequest, oracle: Path) -> Case:
    latent_length, tau = request.param
    return Case(latent_length, tau, load_file(oracle / "rollout" / f"L{latent_length}_tau{tau}_T1.0.safetensors"))


@pytest.fixture(scope="module")
def model(oracle: Path) -> PreTrainedModel:
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        oracle / "tiny", dtype=torch.float32, attn_implementation="sdpa"
    )
    return loaded


def close(ours: Tensor, theirs: Tensor, tolerance: float = EXACT) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def dense(ids_BK: Tensor, weights_BK: Tensor, vocab: int) -> Tensor:
    """Weights [B, V] at the place of their candidate, 0 elsewhere."""
    return torch.zeros(ids_BK.shape[0], vocab).scatter_add(1, ids_BK, weights_BK)


def test_every_recorded_step_is_reproduced(case: Case, model: PreTrainedModel) -> None:
    table, controls, prompt = model.get_input_embeddings(), case.controls, case.data["prompt_ids"].shape[1]
    steps, vocab = case.data["raw_logits"].shape[1:]
    compared = 0
    for t in range(steps):
        live_B = case.data["completion_mask"][:, t].bool()
        kept = support(case.data["raw_logits"][:, t], controls, WIDTH)
        scores_BV = case.data["scores"][:, t]
        inside_BV = dense(kept.ids_BK, torch.isfinite(kept.logprobs_BK).float(), vocab).bool()
        assert torch.equal(inside_BV, torch.isfinite(scores_BV))
        close(kept.logprobs_BK.exp(), scores_BV.softmax(-1).gather(1, kept.ids_BK))
        raw_BV = case.data["raw_logits"][:, t]
        close(kept.log_mass_B1.squeeze(1), (scores_BV.double().logsumexp(-1) - raw_BV.double().logsumexp(-1)).float())
        perturbed_BK = perturb(kept, case.data["gumbel"][:, t].gather(1, kept.ids_BK))
        if t < case.latent_length:
            weights_BK = mixture_weights(perturbed_BK, controls.tau_B1)
            theirs_BV = dense(case.data["topk_ids"][:, prompt + t], case.data["topk_probs"][:, prompt + t], vocab)
            close(dense(kept.ids_BK, weights_BK, vocab)[live_B], theirs_BV[live_B])
            close(mix(table, kept.ids_BK, weights_BK)[live_B], case.data["embeds"][:, prompt + t][live_B])
        else:
            token_B = kept.ids_BK.gather(1, chosen(perturbed_BK)).squeeze(1)
            assert torch.equal(token_B[live_B], case.data["completion_ids"][:, t][live_B])
            close(table(token_B)[live_B], case.data["embeds"][:, prompt + t][live_B])
        compared += int(live_B.sum())
    assert compared > 40


@pytest.mark.parametrize("row", range(6))
@torch.no_grad()
def test_each_step_of_an_answer_is_reproduced_without_padding(case: Case, model: PreTrainedModel, row: int) -> None:
    table = model.get_input_embeddings()
    controls = Controls(*(column[row : row + 1] for column in case.controls))
    prompt = case.data["prompt_ids"].shape[1]
    prompt_ids_P = case.data["prompt_ids"][row][case.data["prompt_mask"][row].bool()]
    next_BTD, cache = table(prompt_ids_P)[None], DynamicCache(config=model.config)
    for t in range(int(case.data["completion_mask"][row].sum())):
        logits_BV = model(inputs_embeds=next_BTD, past_key_values=cache, use_cache=True).logits[:, -1]
        close(logits_BV[0], case.data["raw_logits"][row, t], 2e-5)
        kept = support(logits_BV, controls, WIDTH)
        perturbed_BK = perturb(kept, case.data["gumbel"][row, t][kept.ids_BK])
        if t < case.latent_length:
            next_BD = mix(table, kept.ids_BK, mixture_weights(perturbed_BK, controls.tau_B1))
        else:
            token_B = kept.ids_BK.gather(1, chosen(perturbed_BK)).squeeze(1)
            assert token_B.item() == case.data["completion_ids"][row, t].item()
            next_BD = table(token_B)
        close(next_BD[0], case.data["embeds"][row, prompt + t], 1e-4)
        next_BTD = case.data["embeds"][row, prompt + t][None, None]


def test_the_oracles_noise_is_the_noise_of_this_method(case: Case) -> None:
    """Its noise comes from its own generator; ours must only have the same law, which `test_noise` proves."""
    gumbel = case.data["gumbel"].flatten().double()
    uniform = torch.exp(-torch.exp(-gumbel)).sort().values
    distance = (uniform - torch.arange(1, len(uniform) + 1) / len(uniform)).abs().max()
    assert float(distance) * len(uniform) ** 0.5 < 1.95
