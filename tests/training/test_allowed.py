"""Masks of constrained steps: what they forbid, what replay makes of them, and which records are refused."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from training.allowed import Allowed, allowed_of, drawn_as_allowed, forbidden
from training.controls import controls_for
from training.distill import corrected
from training.draw import draw_by_parts
from training.models.head import take_apart
from training.rollout import Rollout
from training.sample import sample
from training.sampling import Sampling, Target
from training.scoring import Reader, score

from .rollouts import VOCABULARY, backward, policy_of, tiny


def packed(open_NV: Tensor) -> Tensor:
    """Bits of bool [N, V], uint8 [N, Q]."""
    padded_NV = torch.nn.functional.pad(open_NV, (0, -open_NV.shape[1] % 8)).int()
    return (padded_NV.view(len(open_NV), -1, 8) << torch.arange(8)).sum(-1).to(torch.uint8)


def some(rows: int, seed: int = 0) -> Tensor:
    return torch.rand(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) < 0.4


def constrained() -> Rollout:
    """An answer with masks that allow what it drew; the last token's step is free."""
    rollout = sample(policy_of(tiny()), [5, 6, 7], Sampling(latent_length=2, top_k=3, seed=1), 7, ignore_eos=True)
    open_MV = some(4)
    for ids_K in rollout.latent_ids_LK.long():
        open_MV[0, ids_K] = True
    for place, token in enumerate(rollout.token_ids_T.tolist()[:-1]):
        open_MV[1 + place % 3, token] = True
    mask_S = torch.tensor([0, 0, *(1 + place % 3 for place in range(rollout.answer_length - 1)), -1], dtype=torch.int32)
    return replace(rollout, masks_MQ=packed(open_MV), mask_S=mask_S)


@pytest.mark.parametrize("vocabulary", [1, 7, 8, 37, 40])
def test_bits_forbid_where_they_are_0_and_beyond_their_end(vocabulary: int) -> None:
    open_NV = some(5)
    closed_NV = forbidden(packed(open_NV), vocabulary)
    expected_NV = torch.ones(5, vocabulary, dtype=torch.bool)
    shared = min(vocabulary, VOCABULARY)
    expected_NV[:, :shared] = ~open_NV[:, :shared]
    assert torch.equal(closed_NV, expected_NV)


def test_scores_and_gradients_are_those_of_the_allowed_tokens_alone() -> None:
    """Against the definition in float64: softmax over what is allowed, of both models."""
    policy, reference = (take_apart(tiny(dtype=torch.float64, seed=seed)) for seed in (0, 4))
    hidden_ND = torch.randn(6, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    open_NV = some(6)
    open_NV[4:] = True
    ids_N1 = open_NV.int().argmax(-1, keepdim=True)
    temperature_N = torch.tensor([1.0, 0.5, 2.0, 1.0, 1.0, 0.7])
    bits_MQ = torch.cat((torch.full((1, 5), 255, dtype=torch.uint8), packed(open_NV[:4])))
    allowed = Allowed(bits_MQ, torch.tensor([1, 2, 3, 4, 0, 0]))
    for chunk in (2 * VOCABULARY, 100 * VOCABULARY):
        frozen = Reader(reference, hidden_ND.detach())
        ours = score(Reader(policy, hidden_ND), ids_N1, temperature_N, chunk, frozen, allowed)
        logits_NV = policy.logits(hidden_ND) / temperature_N.double()[:, None]
        logp_NV = logits_NV.masked_fill(~open_NV, -torch.inf).log_softmax(-1)
        with torch.no_grad():
            other_NV = reference.logits(hidden_ND) / temperature_N.double()[:, None]
            logq_NV = other_NV.masked_fill(~open_NV, -torch.inf).log_softmax(-1)
        kl_N = (logp_NV.exp() * (logp_NV - logq_NV)).where(open_NV, 0.0).nan_to_num().sum(-1)
        torch.testing.assert_close(ours.logprobs_NK, logp_NV.gather(1, ids_N1))
        torch.testing.assert_close(ours.kl_N, kl_N)
        torch.testing.assert_close(ours.entropy_N, torch.special.entr(logp_NV.exp()).sum(-1))
        backward(ours.logprobs_NK.sum() + 3 * ours.kl_N.sum())
        assert hidden_ND.grad is not None
        gradient_ND, hidden_ND.grad = hidden_ND.grad, None
        plain_NV = policy.logits(hidden_ND) / temperature_N.double()[:, None]
        finite_NV = plain_NV.masked_fill(~open_NV, -1e9).log_softmax(-1)
        defined_N = (finite_NV.exp() * (finite_NV - logq_NV.nan_to_num(neginf=-1e9))).where(open_NV, 0.0).sum(-1)
        backward(finite_NV.gather(1, ids_N1).sum() + 3 * defined_N.sum())
        torch.testing.assert_close(gradient_ND, hidden_ND.grad)
        hidden_ND.grad = None


def test_masks_of_a_batch_keep_their_rollouts() -> None:
    rollout = constrained()
    free = sample(policy_of(tiny()), [5, 6], Sampling(latent_length=1, seed=3), 4)
    assert allowed_of([free, free], torch.device("cpu")) == (None, None)
    latents, tokens = allowed_of([free, rollout, rollout], torch.device("cpu"))
    assert latents is not None
    assert tokens is not None
    assert latents.mask_N.tolist() == [0, 1, 1, 5, 5]
    own = rollout.mask_S[2:-1].long()
    assert tokens.mask_N.tolist() == [0] * free.answer_length + [*(own + 1).tolist(), 0, *(own + 5).tolist(), 0]


def test_what_a_mask_forbids_cannot_have_been_drawn() -> None:
    rollout = constrained()
    assert drawn_as_allowed(rollout)
    assert drawn_as_allowed(replace(rollout, masks_MQ=rollout.masks_MQ[:0], mask_S=rollout.mask_S[:0]))
    closed = replace(rollout, masks_MQ=torch.zeros_like(rollout.masks_MQ))
    assert not drawn_as_allowed(closed)
    assert not drawn_as_allowed(replace(rollout, mask_S=rollout.mask_S + 9))
    assert not drawn_as_allowed(replace(rollout, mask_S=rollout.mask_S[:-1]))
    assert not drawn_as_allowed(replace(rollout, masks_MQ=rollout.masks_MQ[:, :1]))


def test_a_correction_is_not_held_to_what_the_answer_was() -> None:
    correction = corrected(constrained(), torch.tensor([3, 4]), None)
    assert len(correction.rollout.masks_MQ) == len(correction.rollout.mask_S) == 0


def test_min_p_keeps_what_is_likely_enough_beside_the_first() -> None:
    logits_1V = torch.tensor([[0.5, 0.3, 0.1, 0.06, 0.04]]).log()
    for min_p, kept in ((0.0, 5), (0.1, 4), (0.15, 3), (0.5, 2), (1.0, 1)):
        controls = controls_for([Sampling(top_k=5, top_p=1.0, min_p=min_p)], torch.device("cpu"))
        drawn = draw_by_parts(logits_1V, controls, torch.zeros(1, 1, dtype=torch.int64), 5)
        assert int((drawn.logprobs_BK > -torch.inf).sum()) == kept
    assert not Target(1.0, 30, 0.95).drew(Sampling(min_p=0.1))
    assert Target(1.0, 30, 0.95).drew(Sampling())
    with pytest.raises(ValueError, match="min_p"):
        Sampling(min_p=1.1)
