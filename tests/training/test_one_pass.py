"""The compiled draw of a CPU is the one that `draw_by_parts` defines, row for row, at every setting."""

import math
import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from training import one_pass
from training.controls import controls_for
from training.draw import Drawn, draw, draw_by_parts, prepare
from training.sampling import Sampling

SETTINGS = [
    Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=2**62 + top_k)
    for temperature in (0.0, 0.3, 1.0, 2.5)
    for top_k in (1, 5, 30, 64)
    for top_p in (0.1, 0.95, 1.0)
] + [Sampling(top_k=30, top_p=top_p, min_p=min_p, seed=3) for top_p in (0.9, 1.0) for min_p in (0.01, 0.3, 1.0)]


def random_logits(batch: int, vocab: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(batch, vocab, generator=torch.Generator().manual_seed(vocab))


def both(logits_BV: Tensor, samplings: Sequence[Sampling], width: int) -> tuple[Drawn, Drawn]:
    """Draw one step of each row both ways; every row is at a step of its own."""
    controls = controls_for(samplings, torch.device("cpu"))
    step_B1 = 7 * torch.arange(len(samplings))[:, None]
    assert one_pass.fits(logits_BV)
    return draw(logits_BV, controls, step_B1, width), draw_by_parts(logits_BV, controls, step_B1, width)


def assert_the_same(compiled: Drawn, defined: Drawn) -> None:
    """Equal choices; equal numbers but for rounding."""
    assert torch.equal(compiled.ids_BK, defined.ids_BK)
    assert torch.equal(compiled.token_B1, defined.token_B1)
    for ours, theirs in zip(compiled, defined, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize("vocab", [1, 7, 64, 300, 1023, 1024, 1025, 8192, 40_001])
@pytest.mark.parametrize("width", [1, 32, 64])
def test_both_draw_the_same_at_every_setting(vocab: int, width: int) -> None:
    assert_the_same(*both(random_logits(len(SETTINGS), vocab), SETTINGS, width))


@pytest.mark.parametrize("vocab", [300, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_of_equal_logits_the_lower_id_is_first(vocab: int, dtype: torch.dtype) -> None:
    logits_BV = random_logits(5, vocab).round().to(dtype)
    logits_BV[0] = 0.0
    logits_BV[1, ::2], logits_BV[1, 1::2] = 0.0, -0.0
    logits_BV[2, 7:] = -math.inf  # fewer numbers than candidates
    compiled, defined = both(logits_BV, [Sampling(top_k=32, top_p=1.0)] * 5, 32)
    plain_BK = logits_BV.double().sort(dim=-1, descending=True, stable=True).indices[:, :32]
    assert torch.equal(compiled.ids_BK, plain_BK)
    assert_the_same(compiled, defined)


@pytest.mark.parametrize("vocab", [300, 9001, 40_001])
def test_logits_in_order_are_selected_too(vocab: int) -> None:
    rising_V = torch.arange(vocab) / vocab
    logits_BV = torch.stack([rising_V, rising_V.flip(0), rising_V.roll(vocab // 2)])
    compiled, _ = both(logits_BV, [Sampling()] * 3, 32)
    assert torch.equal(compiled.ids_BK, logits_BV.sort(dim=-1, descending=True, stable=True).indices[:, :32])


@pytest.mark.parametrize("vocab", [300, 9001])
@pytest.mark.parametrize("place", [0, 17, 150, 299])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_shows_in_its_own_row_alone(vocab: int, place: int, bad: float) -> None:
    """The engine refuses such a row, and must live to say so."""
    logits_BV = random_logits(3, vocab)
    clean, _ = both(logits_BV, [Sampling()] * 3, 32)
    logits_BV[1, place] = bad
    drawn, _ = both(logits_BV, [Sampling()] * 3, 32)
    assert drawn.token_logprob_B1.isnan().flatten().tolist() == [False, True, False]
    assert ((drawn.ids_BK >= 0) & (drawn.ids_BK < vocab)).all()
    for row in (0, 2):
        assert all(torch.equal(ours[row], theirs[row]) for ours, theirs in zip(drawn, clean, strict=True))


def test_log_probabilities_hold_over_a_large_vocabulary_and_far_logits() -> None:
    logits_BV = random_logits(4, 151_936)
    logits_BV[1] *= 30  # most of the vocabulary has no weight at all
    logits_BV[2] = 5.0  # all of it has the same
    logits_BV[3, 77] = 1e30
    compiled, _ = both(logits_BV, [Sampling()] * 4, 32)
    exact_BV = logits_BV.double().log_softmax(-1)
    error_B1 = (compiled.token_logprob_B1 - exact_BV.gather(1, compiled.token_B1)).abs()
    assert float(error_B1.max()) < 2e-6


def test_logits_that_carry_a_gradient_or_lie_apart_are_drawn_from() -> None:
    logits_BV = random_logits(8, 600)
    apart_BV = torch.stack([logits_BV, -logits_BV], dim=-1)[..., 0].requires_grad_()
    assert not apart_BV.is_contiguous()
    plain, _ = both(logits_BV, [Sampling()] * 8, 32)
    drawn, _ = both(apart_BV, [Sampling()] * 8, 32)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(drawn, plain, strict=True))


def test_float64_and_other_devices_are_drawn_by_parts() -> None:
    assert not one_pass.fits(torch.zeros(1, 5, dtype=torch.float64))
    assert not one_pass.fits(torch.zeros(1, 5, device="meta"))
    assert one_pass.fits(torch.zeros(1, 5, dtype=torch.bfloat16))


def test_without_a_place_to_keep_it_the_draw_is_compiled_all_the_same() -> None:
    """As in a container whose file system cannot be written."""
    code = (
        "import numba.core.caching as c; c.CacheImpl._locator_classes = []\n"
        "import training.one_pass as o; assert callable(o.compiled_draw()); print('compiled')"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=os.environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "compiled\n"


def test_a_cpu_is_prepared_for_its_first_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(one_pass, "compiled_draw", lambda: compiled.append("now"))
    prepare(torch.device("meta"))
    assert not compiled
    prepare(torch.device("cpu"))
    assert compiled == ["now"]
