"""The latent step: the filter is the known one, the draw follows pi~, and one noise serves both readouts."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from training.candidates import top_candidates
from training.controls import Controls, controls_for
from training.draw import Drawn, averaged_weights, draw
from training.latent import chosen, mix, mixture_weights, perturb, support
from training.noise import GOLDEN, _mix, gumbel, step_key, stream
from training.sampling import MOST_DRAWS, Sampling

CPU = torch.device("cpu")
DRAWS = 100_000


def rows(count: int, sampling: Sampling) -> Controls:
    """`count` rows with the same settings and the seeds 0, 1, 2, ..."""
    return controls_for([sampling] * count, CPU)._replace(
        stream_B1=controls_for([Sampling(seed=seed) for seed in range(count)], CPU).stream_B1
    )


def drawn_at(logits_BV: Tensor, controls: Controls, step_B: Tensor, width: int) -> Drawn:
    """Draw each row at a step of its own."""
    return draw(logits_BV, controls, step_B[:, None].long(), width)


def random_logits(batch: int, vocab: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(batch, vocab, generator=torch.Generator().manual_seed(seed))


def dense(ids_BK: Tensor, values_BK: Tensor, vocab: int) -> Tensor:
    """Values of the candidates at their place in the vocabulary, -inf elsewhere."""
    return torch.full((ids_BK.shape[0], vocab), -math.inf, dtype=values_BK.dtype).scatter(1, ids_BK, values_BK)


def chi_square_p(counts: Tensor, expected: Tensor) -> float:
    """Probability of counts at least this far from those expected."""
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return float(torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2.0), torch.tensor(statistic / 2)))


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [1, 5, 30, 500])
@pytest.mark.parametrize("top_p", [0.1, 0.95, 1.0])
def test_the_filter_is_that_of_transformers(temperature: float, top_k: int, top_p: float) -> None:
    vocab = 300
    logits_BV = random_logits(64, vocab)
    ids_BV = torch.zeros(64, 1, dtype=torch.int64)
    theirs_BV = TemperatureLogitsWarper(temperature)(ids_BV, logits_BV)
    theirs_BV = TopKLogitsWarper(top_k)(ids_BV, theirs_BV)
    if top_p < 1.0:
        theirs_BV = TopPLogitsWarper(top_p)(ids_BV, theirs_BV)
    controls = rows(64, Sampling(temperature=temperature, top_k=top_k, top_p=top_p))
    ours = support(logits_BV, controls, min(top_k, vocab))
    ours_BV = dense(ours.ids_BK, ours.logprobs_BK, vocab)
    assert torch.equal(ours_BV.isneginf(), theirs_BV.isneginf())
    torch.testing.assert_close(ours_BV, theirs_BV.log_softmax(-1), rtol=1e-5, atol=1e-5)
    assert torch.equal(ours.size_B, (~theirs_BV.isneginf()).sum(-1))


def test_the_filter_under_ties_keeps_exactly_top_k_of_those_transformers_keeps() -> None:
    logits_BV = random_logits(64, 300).round()  # integers: every value many times
    theirs_BV = TopKLogitsWarper(7)(torch.zeros(64, 1, dtype=torch.int64), logits_BV)
    ours = support(logits_BV, rows(64, Sampling(top_k=7, top_p=1.0)), 7)
    assert torch.equal(ours.size_B, torch.full((64,), 7))
    assert not theirs_BV.gather(1, ours.ids_BK).isneginf().any()
    assert (theirs_BV != -math.inf).sum() > ours.size_B.sum()


@pytest.mark.parametrize("vocab", [50, 4095, 4096, 5000, 40_001])
@pytest.mark.parametrize("width", [1, 5, 30, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_top_candidates_are_the_first_of_a_stable_sort(vocab: int, width: int, dtype: torch.dtype) -> None:
    logits_BV = random_logits(5, vocab).to(torch.bfloat16).to(dtype)  # rounded: full of ties
    logits_BV[0] = 0.0
    logits_BV[1, ::2], logits_BV[1, 1::2] = 0.0, -0.0
    logits_BV[2, 7:] = -math.inf
    plain = logits_BV.double().sort(dim=-1, descending=True, stable=True)
    assert torch.equal(top_candidates(logits_BV, width), plain.indices[:, :width])


@pytest.mark.parametrize("vocab", [300, 9001, 40_001])
def test_rows_in_order_or_with_few_numbers_do_not_mislead_the_others(vocab: int) -> None:
    logits_BV = random_logits(5, vocab)
    logits_BV[0] = torch.arange(vocab).float()
    logits_BV[1] = torch.arange(vocab, 0, -1).float()
    logits_BV[2, 40:] = -math.inf
    plain_BK = logits_BV.double().sort(dim=-1, descending=True, stable=True).indices[:, :30]
    assert torch.equal(top_candidates(logits_BV, 30), plain_BK)
    logits_BV[3, 17] = math.nan  # the engine refuses such a row, and must live to say so
    found_BK = top_candidates(logits_BV, 30)
    assert torch.equal(found_BK[[0, 1, 2, 4]], plain_BK[[0, 1, 2, 4]])
    assert ((found_BK >= 0) & (found_BK < vocab)).all()


def test_what_is_drawn_does_not_depend_on_the_width() -> None:
    logits_BV = random_logits(16, 9000).bfloat16()
    controls = rows(16, Sampling(top_k=10, tau=0.4))
    narrow = drawn_at(logits_BV, controls, torch.arange(16), 10)
    for width in (11, 30, 64):
        wide = drawn_at(logits_BV, controls, torch.arange(16), width)
        assert torch.equal(wide.ids_BK[:, :10], narrow.ids_BK)
        assert torch.equal(wide.token_B1, narrow.token_B1)
        assert not wide.weights_BK[:, 10:].any()
        torch.testing.assert_close(wide.weights_BK[:, :10], narrow.weights_BK, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(wide.token_logprob_B1, narrow.token_logprob_B1, rtol=1e-6, atol=1e-6)


def test_a_draw_depends_on_its_own_row_alone() -> None:
    settings = [Sampling(tau=0.1 + 0.05 * row, temperature=row / 4, top_k=1 + 3 * row, seed=row) for row in range(8)]
    logits_BV, steps_B = random_logits(8, 6000), torch.tensor([0, 1, 2, 3, 64, 65, 66, 67])
    together = drawn_at(logits_BV, controls_for(settings, CPU), steps_B, 30)
    order = [5, 0, 7, 2]
    shuffled = drawn_at(logits_BV[order], controls_for([settings[row] for row in order], CPU), steps_B[order], 30)
    for ours, theirs in zip(together, shuffled, strict=True):
        assert torch.equal(ours[order], theirs)
    for row, setting in enumerate(settings):
        alone = drawn_at(logits_BV[row : row + 1], controls_for([setting], CPU), steps_B[row : row + 1], 30)
        for ours, theirs in zip(together, alone, strict=True):
            assert torch.equal(ours[row], theirs[0])


def test_rows_of_a_batch_differ_by_their_seed() -> None:
    drawn = drawn_at(random_logits(1, 300, scale=0.5).expand(64, -1), rows(64, Sampling()), torch.zeros(64), 30)
    assert len(set(drawn.token_B1.flatten().tolist())) > 10
    assert len({tuple(weights) for weights in drawn.weights_BK.tolist()}) == 64


def test_small_tau_turns_a_latent_step_into_the_token_step() -> None:
    drawn = drawn_at(random_logits(256, 300), rows(256, Sampling(tau=1e-6)), torch.zeros(256), 30)
    one_hot = torch.zeros_like(drawn.weights_BK).scatter(1, chosen(drawn.scores_BK), 1.0)
    torch.testing.assert_close(drawn.weights_BK, one_hot, rtol=0, atol=1e-6)
    table = nn.Embedding(300, 16)
    latent_BD, token_BD = mix(table, drawn.ids_BK, drawn.weights_BK), table(drawn.token_B1.squeeze(1))
    torch.testing.assert_close(latent_BD, token_BD, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tau", [0.05, 0.5, 5.0])
def test_a_single_candidate_is_a_token_at_any_tau(tau: float) -> None:
    logits_BV = random_logits(64, 300)
    drawn = drawn_at(logits_BV, rows(64, Sampling(top_k=1, tau=tau)), torch.zeros(64), 1)
    assert torch.equal(drawn.weights_BK, torch.ones(64, 1))
    assert torch.equal(drawn.token_B1, logits_BV.argmax(-1, keepdim=True))
    table = nn.Embedding(300, 16)
    assert torch.equal(mix(table, drawn.ids_BK, drawn.weights_BK), table(drawn.token_B1.squeeze(1)))


def test_the_token_is_the_mode_of_the_mixture() -> None:
    drawn = drawn_at(random_logits(512, 300), rows(512, Sampling(tau=0.4)), torch.zeros(512), 30)
    mode_B1 = drawn.weights_BK.argmax(-1, keepdim=True)
    assert torch.equal(drawn.ids_BK.gather(1, mode_B1), drawn.token_B1)
    torch.testing.assert_close(drawn.weights_BK.sum(-1), torch.ones(512))


@pytest.mark.parametrize("vary", ["seed", "step"])
def test_tokens_follow_the_sampling_distribution(vary: str) -> None:
    logits_V = random_logits(1, 60, scale=1.5)
    sampling = Sampling(temperature=0.8, top_k=12, top_p=0.95)
    by_seed, steps = rows(DRAWS, sampling), torch.zeros(DRAWS, dtype=torch.int64)
    if vary == "step":
        by_seed, steps = by_seed._replace(stream_B1=by_seed.stream_B1[:1].expand(DRAWS, -1)), torch.arange(DRAWS)
    drawn = drawn_at(logits_V.expand(DRAWS, -1), by_seed, steps, 12)
    probabilities = drawn.logprobs_BK[0].exp()
    kept = probabilities > 0
    counts = (drawn.token_B1 == drawn.ids_BK[:1]).sum(0)
    assert 3 < int(kept.sum()) < 12  # the filter cut something
    assert not counts[~kept].any()
    assert chi_square_p(counts[kept].double(), DRAWS * probabilities[kept].double()) > 1e-3


def test_mixtures_are_gumbel_softmax_samples() -> None:
    """Mean and spread of z agree with Gumbel noise of torch's own, and its mode is distributed as pi~."""
    tau, logits_V = 0.5, random_logits(1, 60, scale=1.5)
    drawn = drawn_at(
        logits_V.expand(DRAWS, -1), rows(DRAWS, Sampling(tau=tau, top_k=8, top_p=1.0)), torch.zeros(DRAWS), 8
    )
    uniform = torch.rand(DRAWS, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    independent = ((drawn.logprobs_BK.double() - uniform.log().neg().log()) / tau).softmax(-1)
    ours = drawn.weights_BK.double()
    error = ((ours.var(0) + independent.var(0)) / DRAWS).sqrt()
    assert ((ours.mean(0) - independent.mean(0)).abs() < 4 * error).all()
    torch.testing.assert_close(ours.var(0), independent.var(0), rtol=0.03, atol=1e-4)
    counts = torch.bincount(ours.argmax(-1), minlength=8).double()
    assert chi_square_p(counts, DRAWS * drawn.logprobs_BK[0].double().exp()) > 1e-3


def averaged(drawn: Drawn, controls: Controls, wanted: list[int]) -> Tensor:
    """Average the samples of step 0; each row wants its own number of them."""
    per_row = controls._replace(draws_B1=torch.tensor(wanted)[:, None])
    return averaged_weights(drawn, per_row, torch.zeros(len(wanted), 1, dtype=torch.int64), max(wanted))


def test_no_sample_of_a_mean_is_keyed_by_the_noise_of_a_token() -> None:
    """Bit for bit, a further sample's key was the first sample's random bits of the token with its number as id."""
    key_B1 = step_key(stream(torch.tensor([[7]])), torch.tensor([[3]]))
    bits_1V = _mix(key_B1 + GOLDEN + torch.arange(1000) * GOLDEN)  # what `gumbel` turns into noise
    samples = step_key(key_B1, -torch.arange(1, MOST_DRAWS)[None])
    assert not bool(torch.isin(samples, bits_1V).any())
    assert bool(torch.isin(step_key(key_B1, torch.arange(1, MOST_DRAWS)[None]), bits_1V).all()), "as it was"


def test_an_averaged_mixture_has_the_mean_of_a_sample_and_spreads_less() -> None:
    logits_BV = torch.tensor([[1.0, 0.5, 0.0, -0.5]]).expand(DRAWS, -1)
    controls = rows(DRAWS, Sampling(tau=1.0, top_k=4, top_p=1.0))
    one = drawn_at(logits_BV, controls, torch.zeros(DRAWS, dtype=torch.int64), 4)
    four_BK = averaged(one, controls, [4] * DRAWS)
    torch.testing.assert_close(four_BK.sum(-1), torch.ones(DRAWS))
    torch.testing.assert_close(four_BK.mean(0), one.weights_BK.mean(0), atol=0.01, rtol=0)
    torch.testing.assert_close(four_BK.var(0) / one.weights_BK.var(0), torch.full((4,), 0.25), atol=0.02, rtol=0)


def test_a_row_averages_its_own_samples_whatever_the_others_want() -> None:
    logits_BV = random_logits(6, 300)
    controls = rows(6, Sampling(tau=1.0, top_p=0.95))
    drawn = drawn_at(logits_BV, controls, torch.zeros(6, dtype=torch.int64), 30)
    mixed_BK = averaged(drawn, controls, [1, 2, 5, 1, 3, 64])
    assert torch.equal(averaged(drawn, controls, [1] * 6), drawn.weights_BK)
    torch.testing.assert_close(mixed_BK[[0, 3]], drawn.weights_BK[[0, 3]])
    torch.testing.assert_close(mixed_BK[2], averaged(drawn, controls, [5] * 6)[2])
    assert not torch.allclose(mixed_BK[2], drawn.weights_BK[2], atol=1e-3)
    key_B1 = step_key(controls.stream_B1, torch.tensor(0))
    again = mixture_weights(
        drawn.logprobs_BK + gumbel(step_key(key_B1, torch.tensor(-1)), drawn.ids_BK), torch.ones(6, 1)
    )
    torch.testing.assert_close(mixed_BK[1], (drawn.weights_BK[1] + again[1]) / 2)
    assert not mixed_BK[drawn.logprobs_BK == -math.inf].any()


def test_temperature_0_is_the_argmax_with_log_probabilities_at_1() -> None:
    logits_BV = random_logits(32, 300)
    drawn = drawn_at(logits_BV, rows(32, Sampling(temperature=0.0)), torch.zeros(32), 30)
    assert torch.equal(drawn.token_B1, logits_BV.argmax(-1, keepdim=True))
    assert torch.equal(drawn.weights_BK[:, 0], torch.ones(32))
    torch.testing.assert_close(drawn.token_logprob_B1, logits_BV.log_softmax(-1).amax(-1, keepdim=True))


def test_equal_best_logits_give_the_lower_id_when_greedy() -> None:
    logits_BV = torch.zeros(2, 5000, dtype=torch.bfloat16)
    logits_BV[0, [4321, 77]] = 5.0
    drawn = drawn_at(logits_BV, rows(2, Sampling(temperature=0.0)), torch.zeros(2), 30)
    assert drawn.token_B1.tolist() == [[77], [0]]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_log_probabilities_are_those_of_the_whole_vocabulary(temperature: float) -> None:
    logits_BV = random_logits(64, 300)
    full_BV = (logits_BV / temperature).log_softmax(-1)
    drawn = drawn_at(logits_BV, rows(64, Sampling(temperature=temperature)), torch.zeros(64), 30)
    torch.testing.assert_close(drawn.token_logprob_B1, full_BV.gather(1, drawn.token_B1), rtol=1e-5, atol=1e-5)
    inside = ~dense(drawn.ids_BK, drawn.logprobs_BK, 300).isneginf()
    torch.testing.assert_close(
        drawn.log_mass_B1, full_BV.masked_fill(~inside, -math.inf).logsumexp(-1, keepdim=True), rtol=1e-5, atol=1e-5
    )


def test_top_p_1_keeps_every_candidate_whatever_the_rounding() -> None:
    logits_BV = torch.zeros(1, 40)
    logits_BV[0, 0] = 30.0
    kept = support(logits_BV, rows(1, Sampling(top_k=40, top_p=1.0)), 40)
    assert kept.size_B.tolist() == [40]
    assert torch.isfinite(kept.logprobs_BK).all()


def test_extreme_settings_stay_finite() -> None:
    logits_BV = 100 * random_logits(4, 300)
    extremes = [Sampling(temperature=1e-6), Sampling(temperature=10.0), Sampling(top_p=1e-6), Sampling(tau=1e-6)]
    drawn = drawn_at(logits_BV, controls_for(extremes, CPU), torch.zeros(4), 30)
    for tensor in (drawn.weights_BK, drawn.log_mass_B1, drawn.token_logprob_B1):
        assert torch.isfinite(tensor).all()


def test_float64_logits_are_worked_on_in_float64() -> None:
    logits_BV = random_logits(16, 300).double()
    controls = rows(16, Sampling(temperature=0.5, top_k=20, top_p=1.0))
    kept = support(logits_BV, controls, 20)
    exact_BV = (logits_BV * 2).log_softmax(-1)
    assert kept.logprobs_BK.dtype == torch.float64
    torch.testing.assert_close(
        kept.logprobs_BK + kept.log_mass_B1, exact_BV.gather(1, kept.ids_BK), rtol=1e-13, atol=1e-13
    )
    scores_BK = perturb(kept, torch.ones(16, 20, dtype=torch.float64))
    weights_BK = mixture_weights(scores_BK, controls.tau_B1)
    torch.testing.assert_close(weights_BK, (kept.logprobs_BK / 0.5).softmax(-1), rtol=1e-13, atol=1e-15)
    assert torch.equal(chosen(scores_BK), torch.zeros(16, 1, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mixture_is_summed_in_float32_at_least(dtype: torch.dtype) -> None:
    table = nn.Embedding(300, 64, dtype=dtype)
    drawn = drawn_at(random_logits(9, 300), rows(9, Sampling(tau=0.5)), torch.zeros(9), 30)
    mixed_BD = mix(table, drawn.ids_BK, drawn.weights_BK)
    exact_BD = torch.einsum("bk,bkd->bd", drawn.weights_BK.double(), table(drawn.ids_BK).double())
    assert mixed_BD.dtype == dtype
    torch.testing.assert_close(
        mixed_BD, exact_BD.float().to(dtype), rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6
    )
    stacked_BLD = mix(table, drawn.ids_BK.view(3, 3, 30), drawn.weights_BK.view(3, 3, 30))
    torch.testing.assert_close(stacked_BLD.view(9, 64), mixed_BD, rtol=0, atol=0 if dtype == torch.float32 else 1e-2)


def test_settings_become_tensors_row_by_row() -> None:
    one, two = Sampling(4, 0.3, 0.7, 10**30, 0.9, 2**63 - 1), Sampling(temperature=1e-9)
    controls = controls_for([one, two], CPU)
    assert controls.top_k_B1[0] > 10**15
    assert controls.top_k_B1[1] == 1  # greedy
    torch.testing.assert_close(controls.scale_B1, torch.tensor([[1 / 0.7], [1.0]]))
    torch.testing.assert_close(controls.nucleus_B1, torch.tensor([[0.9], [0.95]]))
    torch.testing.assert_close(controls.tau_B1, torch.tensor([[0.3], [0.5]]))
    assert controls.stream_B1[0] != controls.stream_B1[1]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("latent_length", [-1]),
        ("tau", [0.0, -1.0, 1e-9, 11.0, math.nan, math.inf]),
        ("temperature", [-0.1, 11.0, math.nan]),
        ("top_k", [0, -1]),
        ("top_p", [0.0, 1.1, -0.5, math.nan]),
        ("seed", [-1, 2**63]),
        ("draws", [0, 65]),
    ],
)
def test_a_setting_out_of_range_is_named(field: str, values: list[float]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=field):
            replace(Sampling(), **{field: value})  # type: ignore[arg-type]
