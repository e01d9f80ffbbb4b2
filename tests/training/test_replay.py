"""Replay gives what sampling recorded, whatever the batch looks like, and never holds the vocabulary for it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from training.models.head import take_apart
from training.replay import ReplayConfig, Replayed, replay
from training.rollout import Rollout
from training.sampling import Sampling

from .rollouts import MODELS, VOCABULARY, backward, gradients, group, mixed_batch, moved, relative_difference, tiny

AS_SAMPLED = ReplayConfig(latent_temperature="sampling")
FLOAT32_TOLERANCE = 1e-5  # nats, absolute: other matrix shapes round differently
BFLOAT16_TOLERANCE = 0.05  # nats, absolute: 8 bits of mantissa on logits of up to 10


def recorded_gap(replayed: Replayed, rollouts: list[Rollout]) -> float:
    """Largest difference to a recorded log-probability, latent and token steps both."""
    gaps = []
    for row, rollout in enumerate(rollouts):
        latents, tokens, width = rollout.latent_length, rollout.answer_length, rollout.latent_ids_LK.shape[1]
        recorded_LK = rollout.latent_logprobs_LK + rollout.latent_log_mass_L[:, None]
        now_LK = replayed.latent_logprobs_BLK[row, :latents, :width]
        gaps.append((now_LK - recorded_LK)[recorded_LK.isfinite()].abs().flatten())
        gaps.append((replayed.token_logprobs_BT[row, :tokens] - rollout.token_logprobs_T).abs())
        assert int(replayed.latent_mask_BL[row].sum()) == latents
        assert int(replayed.token_mask_BT[row].sum()) == tokens
    return float(torch.cat(gaps).max())


@pytest.mark.parametrize("name", MODELS)
def test_replay_gives_the_recorded_logprobs(name: str) -> None:
    model = tiny(name)
    rollouts = mixed_batch(name)
    assert {rollout.latent_length for rollout in rollouts} == {0, 1, 2, 3, 4, 5}
    assert rollouts[-1].answer_length == 0
    with torch.no_grad():
        replayed = replay(take_apart(model), rollouts, AS_SAMPLED)
    assert recorded_gap(replayed, rollouts) < FLOAT32_TOLERANCE
    torch.testing.assert_close(
        replayed.recorded_logprobs_BT[0, : rollouts[0].answer_length], rollouts[0].token_logprobs_T, rtol=0, atol=0
    )


@pytest.mark.parametrize("name", MODELS)
def test_replay_gives_the_recorded_logprobs_in_bfloat16(name: str) -> None:
    model = tiny(name, torch.bfloat16)
    rollouts = mixed_batch(name, torch.bfloat16)
    with torch.no_grad():
        replayed = replay(take_apart(model), rollouts, AS_SAMPLED)
    assert replayed.token_logprobs_BT.dtype == torch.float32
    assert recorded_gap(replayed, rollouts) < BFLOAT16_TOLERANCE


def test_the_test_of_replay_can_fail() -> None:
    """Other weights, and readings in the place of mixtures, are both far outside the tolerance."""
    model = tiny()
    rollouts = mixed_batch()
    shown = [_displayed(rollout) for rollout in rollouts]
    with torch.no_grad():
        on_readings = replay(take_apart(model), shown, AS_SAMPLED)
        assert recorded_gap(on_readings, shown) > 0.01
        elsewhere = replay(take_apart(moved(model, 0.01)), rollouts, AS_SAMPLED)
        assert recorded_gap(elsewhere, rollouts) > 0.01


def _displayed(rollout: Rollout) -> Rollout:
    """The same answer, as if the reading of each latent step had been executed."""
    if not rollout.latent_length:
        return rollout
    weights_LK = torch.nn.functional.one_hot(rollout.latent_weights_LK.argmax(-1), rollout.latent_ids_LK.shape[1])
    return replace(rollout, latent_weights_LK=weights_LK.float())


def test_the_published_latent_term_has_no_temperature() -> None:
    model = tiny()
    hot = group(model, 3, Sampling(latent_length=3, temperature=1.5), [5, 6], 6)
    with torch.no_grad():
        assert recorded_gap(replay(take_apart(model), hot, AS_SAMPLED), hot) < FLOAT32_TOLERANCE
        at_one = replay(take_apart(model), hot)
        assert recorded_gap(at_one, hot) > 0.05
        warm = [replace(one, sampling=replace(one.sampling, temperature=1.0)) for one in hot]
        expected = replay(take_apart(model), warm).latent_logprobs_BLK
    torch.testing.assert_close(at_one.latent_logprobs_BLK, expected, rtol=0, atol=0)


def test_padding_and_batch_order_change_nothing() -> None:
    model = take_apart(tiny(dtype=torch.float64))
    rollouts = mixed_batch()
    with torch.no_grad():
        together = replay(model, rollouts)
        backwards = replay(model, rollouts[::-1])
        alone = [replay(model, [rollout]) for rollout in rollouts]
    for row, rollout in enumerate(rollouts):
        latents, tokens, width = rollout.latent_length, rollout.answer_length, rollout.latent_ids_LK.shape[1]
        for other, at in ((backwards, len(rollouts) - 1 - row), (alone[row], 0)):
            for ours, theirs in (
                (together.latent_logprobs_BLK[row, :latents, :width], other.latent_logprobs_BLK[at, :latents, :width]),
                (together.token_logprobs_BT[row, :tokens], other.token_logprobs_BT[at, :tokens]),
                (together.token_entropy_BT[row, :tokens], other.token_entropy_BT[at, :tokens]),
                (together.latent_entropy_BL[row, :latents], other.latent_entropy_BL[at, :latents]),
            ):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)  # rotary angles are float32 in the model


def loss_of(replayed: Replayed) -> Tensor:
    """Some scalar that depends on every log-probability and every KL."""
    latents = (replayed.latent_weights_BLK * replayed.latent_logprobs_BLK).sum() + replayed.latent_kl_BL.sum()
    return latents + replayed.token_logprobs_BT.square().sum() + replayed.token_kl_BT.sum()


def test_chunks_of_the_head_change_neither_values_nor_gradients() -> None:
    model, reference = tiny(dtype=torch.float64), take_apart(tiny(dtype=torch.float64, seed=9))
    rollouts = mixed_batch()
    results = []
    for elements in (2**25, 3 * VOCABULARY, 1):
        replayed = replay(take_apart(model), rollouts, ReplayConfig(chunk_elements=elements), reference)
        backward(loss_of(replayed))
        results.append((replayed, gradients(model)))
    (whole, expected), *others = results
    for replayed, found in others:
        torch.testing.assert_close(replayed.token_logprobs_BT, whole.token_logprobs_BT, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(replayed.token_entropy_BT, whole.token_entropy_BT, rtol=1e-12, atol=1e-12)
        assert relative_difference(found, expected) < 1e-12


class LargestVocabularyTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts rows of every tensor whose last axis is the vocabulary, forward and backward."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[-1] == VOCABULARY:
                self.rows = max(self.rows, leaf.numel() // VOCABULARY)
        return out


@pytest.mark.parametrize(("chunk_rows", "largest"), [(40, 40), (10**6, 120)])
def test_no_tensor_is_larger_than_one_chunk_of_the_vocabulary(chunk_rows: int, largest: int) -> None:
    """120 token steps and 40 rows a chunk: 40 rows of V is the most there ever is (the head's own matrix is 32)."""
    model = take_apart(tiny("llama"))
    rollouts = [
        replace(one, token_ids_T=torch.full((30,), 5, dtype=torch.int32), token_logprobs_T=torch.zeros(30))
        for one in group(model.model, 4, Sampling(latent_length=2), [5, 6], 4)
    ]
    with LargestVocabularyTensor() as seen:
        backward(loss_of(replay(model, rollouts, ReplayConfig(chunk_elements=chunk_rows * VOCABULARY))))
    assert seen.rows == largest


def test_input_embeddings_are_constants_unless_they_are_to_learn() -> None:
    model = tiny("llama", torch.float64)
    rollouts = mixed_batch("llama")
    backward(loss_of(replay(take_apart(model), rollouts)))
    constant = gradients(model)
    backward(loss_of(replay(take_apart(model), rollouts, ReplayConfig(embedding_gradient=True))))
    learning = gradients(model)
    name = "model.embed_tokens.weight"
    assert name not in constant
    assert float(learning[name].norm()) > 1e-3
    rest = {key: value for key, value in learning.items() if key != name}
    assert relative_difference(rest, constant) < 1e-12


def test_the_embedding_gradient_is_the_derivative() -> None:
    """Central differences over the executed lookups: prompt, latent and token rows of an untied embedding.

    The padding id's row is left out: a stock embedding gives it no gradient.
    """
    model = tiny("llama", torch.float64)
    causal, config = take_apart(model), ReplayConfig(embedding_gradient=True)
    rollouts = mixed_batch("llama")
    backward(loss_of(replay(causal, rollouts, config)))
    gradient = gradients(model)["model.embed_tokens.weight"]
    weight = causal.embedding.weight
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    direction[2] = 0.0
    values = []
    with torch.no_grad():
        for sign in (1.0, -1.0):
            weight.add_(sign * 1e-4 * direction)
            values.append(float(loss_of(replay(causal, rollouts, config))))
            weight.sub_(sign * 1e-4 * direction)
    assert (values[0] - values[1]) / 2e-4 == pytest.approx(float((gradient * direction).sum()), rel=1e-4)


def log_distributions(model: PreTrainedModel, rollout: Rollout) -> Tensor:
    """Log-distributions [L + T, V] at the generated steps from one plain forward on inputs mixed by hand."""
    whole: Any = model
    embedding = take_apart(model).embedding
    with torch.no_grad():
        rows_LKD = embedding(rollout.latent_ids_LK.long())
        mixed_LD = (rollout.latent_weights_LK.double()[:, :, None] * rows_LKD).sum(1)
        ends = (embedding(rollout.prompt_ids_P.long()), mixed_LD, embedding(rollout.token_ids_T.long()))
    logits_SV: Tensor = whole(inputs_embeds=torch.cat(ends)[None]).logits[0]
    logits_NV = logits_SV[len(rollout.prompt_ids_P) - 1 : -1]
    latents_NV, tokens_NV = logits_NV[: rollout.latent_length], logits_NV[rollout.latent_length :]
    divisor = torch.tensor(rollout.sampling.temperature, dtype=torch.float32).double()
    return torch.cat([latents_NV, tokens_NV / divisor]).log_softmax(-1)


@pytest.mark.parametrize("chunk_elements", [2**25, 2 * VOCABULARY])
@pytest.mark.parametrize("name", MODELS)
def test_scores_and_gradients_are_those_of_whole_logits(name: str, chunk_elements: int) -> None:
    """Against autograd through the model's own forward: log-probabilities, exact KL on executed mixtures, entropy."""
    model, reference = tiny(name, torch.float64), tiny(name, torch.float64, seed=9)
    rollout = group(tiny(name), 1, Sampling(latent_length=3, temperature=0.8), [5, 6, 7], 9)[0]
    now_NV, frozen_NV = log_distributions(model, rollout), log_distributions(reference, rollout).detach()
    kl_N = (now_NV.exp() * (now_NV - frozen_NV)).sum(-1)
    latents_LK = now_NV[:3].gather(1, rollout.latent_ids_LK.long())
    tokens_T = now_NV[3:].gather(1, rollout.token_ids_T.long()[:, None]).squeeze(1)
    step_N = torch.arange(1.0, len(kl_N) + 1, dtype=torch.float64)  # so that no two steps pull alike
    backward((rollout.latent_weights_LK * latents_LK).sum() + tokens_T.square().sum() + (step_N * kl_N).sum())
    expected = gradients(model)

    config = ReplayConfig(chunk_elements=chunk_elements)
    found = replay(take_apart(model), [rollout], config, take_apart(reference))
    found_kl_N = torch.cat([found.latent_kl_BL[0], found.token_kl_BT[0]])
    latent_sum = (found.latent_weights_BLK * found.latent_logprobs_BLK).sum()
    backward(latent_sum + found.token_logprobs_BT.square().sum() + (step_N * found_kl_N).sum())
    assert relative_difference(gradients(model), expected) < 1e-9
    assert not gradients(reference)
    torch.testing.assert_close(found.latent_logprobs_BLK[0], latents_LK, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.token_logprobs_BT[0], tokens_T, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found_kl_N, kl_N, rtol=1e-9, atol=1e-9)
    entropy_N = torch.cat([found.latent_entropy_BL[0], found.token_entropy_BT[0]])
    torch.testing.assert_close(entropy_N, torch.special.entr(now_NV.exp()).sum(-1), rtol=1e-9, atol=1e-9)
    assert float(kl_N.detach().min()) > 0


def test_the_kl_to_itself_is_zero() -> None:
    model = take_apart(tiny(dtype=torch.float64))
    with torch.no_grad():
        itself = replay(model, mixed_batch(), None, model)
    for kl in (itself.token_kl_BT, itself.latent_kl_BL):
        torch.testing.assert_close(kl, torch.zeros_like(kl), rtol=0, atol=1e-12)


def test_what_must_not_be_learned_from_is_refused() -> None:
    model = tiny()
    rollout = mixed_batch()[0]
    with pytest.raises(ValueError, match="altered"):
        replay(take_apart(model), [replace(rollout, altered=True)])
    with pytest.raises(ValueError, match="at least one rollout"):
        replay(take_apart(model), [])
    with pytest.raises(ValueError, match="prompt id"):
        replay(take_apart(model), [replace(rollout, prompt_ids_P=rollout.prompt_ids_P[:0])])


@pytest.mark.parametrize("wrong", [{"chunk_elements": 0}, {"latent_temperature": "two"}])
def test_settings_out_of_range_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ReplayConfig(**wrong)
