"""The compiled walk over blocks gives what torch's operations give on a copy of them, and writes nothing else."""

import pytest
import torch
from torch.nn import functional

from app.decoder import paged, team
from app.decoder.cache import BLOCK, PagedLayer
from app.decoder.lean import rotated
from tests.app.decoder.test_kernels import bound, shown

CLOSE = 2e-6


def by_torch(
    heads_BX: torch.Tensor,
    turn: tuple[torch.Tensor, torch.Tensor],
    layer: PagedLayer,
    window: int,
    norms: tuple[torch.Tensor, torch.Tensor] | None,
) -> torch.Tensor:
    """The definition: norm, rotate, keep, gather, mask, attend."""
    assert layer.view is not None
    keys, size = layer.keys_NHPS.shape[1], layer.keys_NHPS.shape[3]
    heads_BNS = heads_BX.view(len(heads_BX), -1, size)
    asked, known, held = heads_BNS.split_with_sizes([heads_BNS.shape[1] - 2 * keys, keys, keys], 1)
    if norms is not None:
        asked, known = (functional.rms_norm(x, (size,), w, 1e-6) for x, w in zip((asked, known), norms, strict=True))
    asked, known = (rotated(x, turn[0][:, None], turn[1][:, None]) for x in (asked, known))
    layer.update(known[:, :, None], held[:, :, None])
    at_M, position_B1 = torch.arange(layer.view.shown_BT.shape[1] * BLOCK), layer.view.position_BC
    seen_BM = (at_M <= position_B1) & (at_M > position_B1 - window)
    seen_BGS = functional.scaled_dot_product_attention(
        asked[:, :, None],
        shown(layer.keys_NHPS, layer),
        shown(layer.values_NHPS, layer),
        seen_BM[:, None, None],
        scale=0.2,
        enable_gqa=True,
    )
    return seen_BGS.flatten(1)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("window", [paged.EVERYTHING, 9, 1])
@pytest.mark.parametrize(
    ("rows", "heads", "group", "size", "length"),
    [(3, 2, 2, 16, 48), (1, 2, 7, 64, 640), (5, 1, 3, 24, 96), (1, 1, 1, 128, 16), (40, 3, 3, 8, 64)],
)
def test_it_is_torchs(
    rows: int, heads: int, group: int, size: int, length: int, window: int, *, normed: bool, threads: int
) -> None:
    torch.manual_seed(0)
    position_B = torch.randint(0, length, (rows,))
    position_B[-1], position_B[0] = 0, length - 1
    layer = bound(position_B, heads, length, size, torch.float32)
    planes = layer.keys_NHPS, layer.values_NHPS
    before = [plane.clone() for plane in planes]
    heads_BX = torch.randn(rows, heads * (group + 2) * size)
    turn = torch.randn(rows, size), torch.randn(rows, size)
    weights = (torch.randn(size), torch.randn(size)) if normed else None
    expected = by_torch(heads_BX, turn, layer, window, weights)
    after = [plane.clone() for plane in planes]
    for plane, old in zip(planes, before, strict=True):
        plane.copy_(old)
    norms = paged.NO_NORMS if weights is None else paged.Norms(weights[0].numpy(), weights[1].numpy(), 1e-6)
    had = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = paged.attended(heads_BX, *turn, layer, 0.2, window, norms)
    finally:
        torch.set_num_threads(had)
    torch.testing.assert_close(got, expected, rtol=0, atol=CLOSE)
    for plane, theirs in zip(planes, after, strict=True):
        torch.testing.assert_close(plane, theirs, rtol=0, atol=2 * CLOSE)


def test_a_row_that_is_not_a_number_stays_alone() -> None:
    """One answer's broken numbers reach no other row."""
    layer = bound(torch.tensor([3, 20]), 1, 32, 16, torch.float32)
    heads_BX = torch.randn(2, 3 * 16)
    heads_BX[0, 3] = float("nan")
    ones = torch.ones(2, 16)
    got = paged.attended(heads_BX, ones, ones, layer, 0.2, paged.EVERYTHING)
    assert got[0].isnan().any()
    assert got[1].isfinite().all()


def test_threads_are_those_that_torch_computes_with() -> None:
    """In this project's own environment there is such a team; elsewhere one thread does all."""
    assert team._start() is not None
