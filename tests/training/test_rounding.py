"""Dithered rounding keeps small changes on average, is a function of place and key, and leaves exact numbers alone."""

from itertools import pairwise

import pytest
import torch

from training.models.rounding import dithered


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_change_below_the_resolution_is_kept_on_average(share: float, sign: float) -> None:
    start = torch.full((40_000,), 1.0 * sign)  # the next bfloat16 away from 0 is 2^-7 further
    change = sign * share * 2.0**-7
    rounded = dithered(start + change, key=3).float()
    assert set(rounded.tolist()) == {sign, sign * (1.0 + 2.0**-7)}
    spread = (share * (1 - share) / 40_000) ** 0.5
    assert abs(float(((rounded - start) / (sign * 2.0**-7)).mean()) - share) < 4 * spread
    nearest = (start + change).to(torch.bfloat16).float()
    assert float((nearest - start).abs().max()) in {0.0, 2.0**-7}, "rounding to the nearest takes all or nothing"


def test_what_bfloat16_holds_stays_bit_for_bit() -> None:
    exact = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    special = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), 3.0e38], dtype=torch.bfloat16)
    for one in (exact, special):
        assert torch.equal(dithered(one.float(), key=1), one)
    assert dithered(torch.tensor([float("nan")]), key=1).isnan().all()


def test_thresholds_follow_key_and_place() -> None:
    exact = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    whole = dithered(exact, key=5)
    assert torch.equal(whole, dithered(exact, key=5))
    assert not torch.equal(whole, dithered(exact, key=6))
    parts = [dithered(exact[start : start + 16], key=5, first=8 * start) for start in range(0, 64, 16)]
    assert torch.equal(torch.cat(parts), whole)


def test_a_growing_change_moves_a_number_once() -> None:
    steps = [dithered(torch.ones(500) + part * 2.0**-7, key=2).float() for part in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert all(bool((later >= earlier).all()) for earlier, later in pairwise(steps))
