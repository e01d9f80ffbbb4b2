"""The reference sampler: what it records is what it executed, checked against a forward without its cache."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import VOCABULARY
from tests.training.conftest import FAMILIES
from training.controls import controls_for
from training.latent import mix, support
from training.models.policy import Policy, embedding, load_policy
from training.rollout import Rollout, trimmed
from training.sample import sample
from training.sampling import Sampling

LATENT = Sampling(latent_length=5, tau=0.5, temperature=0.8, top_k=12, top_p=0.95, seed=3)


@torch.no_grad()
def forward_once(policy: Policy, rollout: Rollout) -> Tensor:
    """Logits [L + T, V] that predicted each generated position, from one forward over the executed sequence."""
    table = embedding(policy)
    parts = [table(rollout.prompt_ids_P.long())]
    if rollout.latent_length:
        parts.append(mix(table, rollout.latent_ids_LK.long(), rollout.latent_weights_LK))
    parts.append(table(rollout.token_ids_T.long()))
    logits_SV: Tensor = policy.model(inputs_embeds=torch.cat(parts)[None]).logits[0]
    return logits_SV[len(rollout.prompt_ids_P) - 1 : -1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("latent_length", [0, 5])
def test_recorded_log_probabilities_are_those_of_the_executed_sequence(
    policies: Mapping[str, Policy], family: str, latent_length: int, prompt_ids: list[int]
) -> None:
    policy, sampling = policies[family], replace(LATENT, latent_length=latent_length)
    rollout = sample(policy, prompt_ids, sampling, 16, ignore_eos=True)
    logits_NV = forward_once(policy, rollout)
    full_NV = (logits_NV / sampling.temperature).log_softmax(-1)
    token_ids_T1 = rollout.token_ids_T.long()[:, None]
    expected_T = full_NV[latent_length:].gather(1, token_ids_T1).squeeze(1)
    torch.testing.assert_close(rollout.token_logprobs_T, expected_T, rtol=1e-4, atol=1e-4)
    kept = support(logits_NV, controls_for([sampling] * len(logits_NV), policy.device), sampling.top_k)
    torch.testing.assert_close(
        torch.cat([rollout.latent_log_mass_L, rollout.token_log_mass_T]),
        kept.log_mass_B1.squeeze(1),
        rtol=1e-4,
        atol=1e-4,
    )
    width = rollout.latent_ids_LK.shape[1]
    assert width == int(kept.size_B[:latent_length].max() if latent_length else 0)
    for step in range(latent_length):
        size = int(kept.size_B[step])
        assert rollout.latent_ids_LK[step, :size].tolist() == kept.ids_BK[step, :size].tolist()
        assert not rollout.latent_ids_LK[step, size:].any()
        torch.testing.assert_close(
            rollout.latent_logprobs_LK[step], kept.logprobs_BK[step, :width], rtol=1e-3, atol=1e-4
        )


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(policy: Policy, prompt_ids: list[int]) -> None:
    one, again = (sample(policy, prompt_ids, LATENT, 12, ignore_eos=True) for _ in range(2))
    other = sample(policy, prompt_ids, replace(LATENT, seed=4), 12, ignore_eos=True)
    assert torch.equal(one.token_ids_T, again.token_ids_T)
    assert torch.equal(one.latent_weights_LK, again.latent_weights_LK)
    assert not torch.equal(one.token_ids_T, other.token_ids_T)


def test_latent_steps_change_what_is_answered(policy: Policy, prompt_ids: list[int]) -> None:
    """A latent is executed, not only recorded: tokens after it differ from those after the mode's token."""
    flat = replace(LATENT, temperature=2.0, top_k=30, top_p=1.0)
    soft = sample(policy, prompt_ids, replace(flat, tau=2.0), 12, ignore_eos=True)
    hard = sample(policy, prompt_ids, replace(flat, tau=1e-6), 12, ignore_eos=True)
    assert soft.reading_L[0] == hard.reading_L[0]
    assert (soft.token_logprobs_T[0] - hard.token_logprobs_T[0]).abs() > 1e-3


def test_vanishing_tau_is_token_sampling(policy: Policy, prompt_ids: list[int]) -> None:
    latent = sample(policy, prompt_ids, replace(LATENT, tau=1e-6), 14, ignore_eos=True)
    tokens = sample(policy, prompt_ids, replace(LATENT, latent_length=0), 14, ignore_eos=True)
    assert latent.reading_L.tolist() + latent.token_ids_T.tolist() == tokens.token_ids_T.tolist()
    torch.testing.assert_close(latent.token_logprobs_T, tokens.token_logprobs_T[5:], rtol=1e-4, atol=1e-4)


def test_one_candidate_is_greedy_decoding(policy: Policy, prompt_ids: list[int]) -> None:
    rollout = sample(policy, prompt_ids, replace(LATENT, top_k=1), 14, ignore_eos=True)
    model: Any = policy.model
    greedy = model.generate(torch.tensor([prompt_ids]), max_new_tokens=14, min_new_tokens=14, do_sample=False)[0]
    greedy = greedy[len(prompt_ids) :]
    spoken = rollout.reading_L.tolist() + rollout.token_ids_T.tolist()
    agreed = next((t for t in range(14) if spoken[t] == 1), 14)  # generate never says the end of sequence here
    assert agreed >= 3
    assert spoken[:agreed] == greedy.tolist()[:agreed]


def test_an_answer_ends_at_the_end_of_sequence_or_the_budget(policy: Policy, prompt_ids: list[int]) -> None:
    full = sample(policy, prompt_ids, replace(LATENT, latent_length=2), 12, ignore_eos=True)
    assert full.stop_reason == "length"
    assert (full.latent_length, full.answer_length) == (2, 10)
    ending = int(full.token_ids_T[4])
    first = full.token_ids_T.tolist().index(ending)
    stopped = sample(replace(policy, eos_ids=frozenset({ending})), prompt_ids, full.sampling, 12)
    assert stopped.stop_reason == "stop"
    assert stopped.token_ids_T.tolist() == full.token_ids_T.tolist()[: first + 1]


def test_a_latent_step_never_ends_an_answer(policy: Policy, prompt_ids: list[int]) -> None:
    everything = replace(policy, eos_ids=frozenset(range(VOCABULARY)))
    rollout = sample(everything, prompt_ids, LATENT, 12)
    assert (rollout.latent_length, rollout.answer_length, rollout.stop_reason) == (5, 1, "stop")


def test_a_budget_shorter_than_the_latents_leaves_no_answer(policy: Policy, prompt_ids: list[int]) -> None:
    rollout = sample(policy, prompt_ids, LATENT, 3)
    assert (rollout.latent_length, rollout.answer_length, rollout.stop_reason) == (3, 0, "length")


def test_the_record_names_its_policy_prompt_and_settings(policy: Policy, prompt_ids: list[int]) -> None:
    rollout = sample(policy, prompt_ids, LATENT, 8)
    assert rollout.policy_version == policy.version == 3
    assert rollout.prompt_ids_P.tolist() == prompt_ids
    assert rollout.sampling is LATENT
    assert not rollout.altered
    assert rollout.latent_weights_LK.dtype == torch.float32
    torch.testing.assert_close(rollout.latent_weights_LK.sum(-1), torch.ones(5))


def test_bfloat16_agrees_with_its_own_forward_within_its_rounding(
    model_dirs: Mapping[str, Path], prompt_ids: list[int]
) -> None:
    policy = load_policy(model_dirs["llama"], version=0, dtype=torch.bfloat16, device="cpu")
    rollout = sample(policy, prompt_ids, LATENT, 10, ignore_eos=True)
    full_NV = (forward_once(policy, rollout).float() / LATENT.temperature).log_softmax(-1)
    expected_T = full_NV[5:].gather(1, rollout.token_ids_T.long()[:, None]).squeeze(1)
    assert (rollout.token_logprobs_T - expected_T).abs().max() < 0.25  # bfloat16 keeps 8 bits; logits reach 10


def test_an_empty_prompt_or_budget_is_refused(policy: Policy, prompt_ids: list[int]) -> None:
    with pytest.raises(ValueError, match="prompt_ids"):
        sample(policy, [], LATENT, 4)
    with pytest.raises(ValueError, match="max_new"):
        sample(policy, prompt_ids, LATENT, 0)


def test_trimming_keeps_the_widest_support_and_clears_what_lies_outside() -> None:
    ids, weights = torch.tensor([[4, 5, 6, 7], [8, 9, 10, 11]]), torch.tensor([[0.7, 0.3, 0, 0], [1.0, 0, 0, 0]])
    logprobs = torch.tensor([[-0.3, -1.3, -torch.inf, -torch.inf], [0.0, -torch.inf, -torch.inf, -torch.inf]])
    kept_ids, kept_weights, kept_logprobs = trimmed(ids, weights, logprobs)
    assert kept_ids.tolist() == [[4, 5], [8, 0]]
    assert torch.equal(kept_weights, weights[:, :2])
    assert torch.equal(kept_logprobs, logprobs[:, :2])
    assert [tensor.shape for tensor in trimmed(ids[:0], weights[:0], logprobs[:0])] == [(0, 0)] * 3
