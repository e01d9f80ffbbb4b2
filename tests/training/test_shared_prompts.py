"""Rollouts of one prompt in one row give what each gives in its own: every value, and the gradient."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, PreTrainedModel

from training.models.head import CausalLM, take_apart
from training.optimization.batches import batches_of
from training.optimization.optimizer import OptimizerConfig
from training.replay import Replayed, replay
from training.rollout import Rollout
from training.sampling import Sampling
from training.shared_prompts import Sharing, row_length, rows_of
from training.update import Learner, UpdateConfig, UpdateReport

from .rollouts import MODELS, VOCABULARY, backward, gradients, group, mixed_batch, relative_difference, tiny

EVERYTHING = Sharing(pair=0.0, longest=10**6)
FAMILIES = [name for name in MODELS if name != "gemma2"]  # whose window of four positions is shorter than a rollout
PROMPT = [5, 9, 8, 7, 6, 5, 4, 3, 11, 12, 13, 14]


def several(model: PreTrainedModel) -> list[Rollout]:
    """Two groups, with latent steps and without, a lead-out, an empty answer, and answers to other prompts between."""
    first = group(model, 4, Sampling(latent_length=3, seed=1), PROMPT, 9)
    second = group(model, 3, Sampling(latent_length=0, seed=9), PROMPT[::-1], 6)
    placed = [replace(one, placement="preamble", lead_out_ids_O=torch.tensor([7, 8, 9])) for one in first[:2]]
    mixed = zip(first[2:], second, mixed_batch("qwen2"), strict=False)
    return [*placed, *(one for three in mixed for one in three), second[-1]]


def alone(model: CausalLM) -> CausalLM:
    return replace(model, sharing=None)


def values(replayed: Replayed, row: int, rollout: Rollout) -> list[Tensor]:
    """Everything the objective reads of one rollout."""
    latents, tokens, width = rollout.latent_length, rollout.answer_length, rollout.latent_ids_LK.shape[1]
    return [
        replayed.latent_logprobs_BLK[row, :latents, :width],
        replayed.latent_current_BLK[row, :latents, :width],
        replayed.latent_kl_BL[row, :latents],
        replayed.latent_entropy_BL[row, :latents],
        replayed.token_logprobs_BT[row, :tokens],
        replayed.recorded_logprobs_BT[row, :tokens],
        replayed.token_kl_BT[row, :tokens],
        replayed.token_entropy_BT[row, :tokens],
    ]


def loss_of(replayed: Replayed) -> Tensor:
    latents = (replayed.latent_weights_BLK * replayed.latent_logprobs_BLK).sum() + replayed.latent_kl_BL.sum()
    return latents + replayed.token_logprobs_BT.square().sum() + replayed.token_kl_BT.sum()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_shared_row_gives_every_value_and_the_gradient_of_rows_apart(name: str) -> None:
    model, reference = tiny(name, torch.float64), take_apart(tiny(name, torch.float64, seed=9))
    policy, rollouts = take_apart(model), several(tiny(name))
    rows = rows_of(rollouts, policy.sharing, 1000)
    assert sorted(map(len, rows))[-2:] == [3, 4]
    found = []
    for one in (policy, alone(policy)):
        replayed = replay(one, rollouts, reference=reference, positions=1000)
        backward(loss_of(replayed))
        found.append((replayed, gradients(model)))
    (shared, its), (apart, theirs) = found
    for row, rollout in enumerate(rollouts):
        for ours, other in zip(values(shared, row, rollout), values(apart, row, rollout), strict=True):
            torch.testing.assert_close(ours, other, rtol=0, atol=1e-6, equal_nan=True)  # rotary angles are float32
    assert relative_difference(its, theirs) < 1e-6


def test_an_answer_sees_nothing_of_its_neighbours() -> None:
    model = take_apart(tiny(dtype=torch.float64))
    one, two = group(tiny(), 2, Sampling(latent_length=2), PROMPT, 8)
    other = replace(two, token_ids_T=(two.token_ids_T + 3) % VOCABULARY)
    assert len(rows_of([one, two], model.sharing, 1000)) == len(rows_of([one, other], model.sharing, 1000)) == 1
    with torch.no_grad():
        first, second = (replay(model, pair, positions=1000) for pair in ([one, two], [one, other]))
    tokens = one.answer_length
    torch.testing.assert_close(first.token_logprobs_BT[0, :tokens], second.token_logprobs_BT[0, :tokens])
    assert not torch.allclose(first.token_logprobs_BT[1], second.token_logprobs_BT[1])


def test_the_prompt_goes_through_once() -> None:
    """Counted in operations: eight answers of two tokens to a prompt of 96 take a fraction of what rows apart take."""
    model = take_apart(tiny())
    rollouts = group(tiny(), 8, Sampling(latent_length=0), PROMPT * 8, 2)
    work = []
    for one in (model, alone(model)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            replay(one, rollouts, positions=1000)
        work.append(counter.get_total_flops())
    assert work[0] < work[1] / 4


def test_an_update_of_a_group_is_the_same_step() -> None:
    def learned(*, shared: bool) -> tuple[dict[str, Tensor], UpdateReport]:
        learner = Learner(tiny(), UpdateConfig(optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=0.0)))
        if not shared:
            learner._causal = learner._shown = alone(learner._causal)
        rollouts = group(tiny(), 6, Sampling(latent_length=2), PROMPT, 7)
        report = learner.update(rollouts, [1.0, -1.0, 0.5, -0.5, 2.0, -2.0])
        return {name: one.detach() for name, one in learner.model.named_parameters()}, report

    (ours, report), (theirs, other) = learned(shared=True), learned(shared=False)
    assert relative_difference(ours, theirs) < 1e-4
    assert report.kl == pytest.approx(other.kl, rel=1e-3)
    assert report.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-4)


def test_what_was_laid_out_for_a_micro_batch_is_what_it_is_made_of() -> None:
    """Asked again about some of the rows, the same rows come out, so no micro-batch is larger than planned."""
    generator = torch.Generator().manual_seed(3)
    drawn = group(tiny(), 12, Sampling(latent_length=0), PROMPT, 3)
    lengths = torch.randint(1, 40, (12,), generator=generator).tolist()
    rollouts = [cut(one, length) for one, length in zip(drawn, lengths, strict=True)]
    for sharing in (EVERYTHING, Sharing(pair=0.004, longest=10**6)):
        for positions in (30, 60, 90, 1000):
            rows = rows_of(rollouts, sharing, positions)
            assert sorted(index for row in rows for index in row) == list(range(12))
            for chosen in combinations(rows, 2):
                again = rows_of([rollouts[index] for row in chosen for index in row], sharing, positions)
                assert sorted(map(len, again)) == sorted(map(len, chosen))
            for bucket in batches_of(rollouts, positions, sharing):
                inside = rows_of([rollouts[index] for index in bucket], sharing, positions)
                longest = max(row_length([rollouts[bucket[index]] for index in row]) for row in inside)
                assert len(inside) * longest <= positions or len(inside) == len(inside[0]) == 1


def test_a_row_is_shared_as_long_as_that_pays() -> None:
    short, long = (group(tiny(), 8, Sampling(latent_length=0), prompt, 3) for prompt in (PROMPT[:2], PROMPT * 8))
    dear = Sharing(pair=0.004, longest=10**6)
    assert len(rows_of([cut(one, 60) for one in short], dear, 10**6)) == 8  # pairs cost more than two positions
    assert len(rows_of([cut(one, 5) for one in long], dear, 10**6)) == 1
    assert len(rows_of(long, None, 10**6)) == 8
    assert len(rows_of(long, replace(dear, longest=20), 10**6)) == 8  # a window that hides the prompt's beginning


def cut(rollout: Rollout, tokens: int) -> Rollout:
    """The same answer with so many tokens, whichever."""
    ids_T = torch.arange(tokens, dtype=torch.int32) % VOCABULARY
    nothing_T = torch.full((tokens,), -1.0)
    return replace(rollout, token_ids_T=ids_T, token_logprobs_T=nothing_T, token_log_mass_T=torch.zeros(tokens))


class Leaking(torch.nn.Module):
    """A layer that mixes each position with the one before it, whatever the mask says."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden_RSD: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        found: Tensor = self.layer(hidden_RSD, *args, **kwargs)
        return found + 0.1 * found.roll(1, dims=1)


def test_a_model_that_looks_past_the_mask_shares_nothing() -> None:
    model: Any = tiny()
    assert take_apart(model).sharing is not None
    model.model.layers[0] = Leaking(model.model.layers[0])
    assert take_apart(model).sharing is None


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_eager_attention_keeps_its_scores_and_shares_nothing(attention: str) -> None:
    config = tiny().config
    model = cast("PreTrainedModel", AutoModelForCausalLM.from_config(config, attn_implementation=attention)).eval()
    assert (take_apart(model).sharing is not None) == (attention == "sdpa")


def test_a_window_is_never_outgrown() -> None:
    policy, rollouts = take_apart(tiny("gemma2")), group(tiny("gemma2"), 4, Sampling(latent_length=1), PROMPT, 5)
    rows: Sequence[Sequence[int]] = rows_of(rollouts, policy.sharing, 1000)
    assert len(rows) == 4
