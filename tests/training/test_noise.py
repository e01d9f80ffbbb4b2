"""The noise is Gumbel(0, 1), depends on nothing but (seed, step, token id), and neighbours do not know each other."""

import math

import pytest
import torch
from torch import Tensor

from training.noise import choice_seed, gumbel, step_key, stream

EULER = 0.5772156649015329
KS_999 = 1.95  # sqrt(n) times the Kolmogorov-Smirnov distance stays below it in 999 of 1000 true samples


def keyed(seeds_B: Tensor, steps_B: Tensor, ids_BK: Tensor) -> Tensor:
    """Noise [B, K] of candidates at one step of each row."""
    return gumbel(step_key(stream(seeds_B), steps_B)[:, None], ids_BK)


def noise(seeds: Tensor, steps: Tensor, ids: Tensor) -> Tensor:
    """Noise [N] of N (seed, step, id) triples."""
    return keyed(seeds, steps, ids[:, None]).squeeze(1)


def grid(count: int, seed: int = 0, step: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """`count` triples that differ in nothing; a test then lets one axis run."""
    return torch.full((count,), seed), torch.full((count,), step), torch.full((count,), 5)


AXES = {"seed": 0, "step": 1, "id": 2}


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("start", [0, 10**6])
def test_noise_is_gumbel_along_every_axis(axis: str, start: int) -> None:
    count = 200_000
    triples = list(grid(count))
    triples[AXES[axis]] = torch.arange(start, start + count)
    drawn = noise(*triples).double()
    ranks = torch.arange(1, count + 1, dtype=torch.float64) / count
    cdf = torch.exp(-torch.exp(-drawn.sort().values))
    distance = torch.maximum((cdf - ranks).abs(), (cdf - ranks + 1 / count).abs()).max()
    assert distance * math.sqrt(count) < KS_999
    assert abs(float(drawn.mean()) - EULER) < 4 * math.pi / math.sqrt(6 * count)
    assert abs(float(drawn.var()) - math.pi**2 / 6) < 0.03


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("lag", [1, 2, 64])
def test_neighbours_are_uncorrelated(axis: str, lag: int) -> None:
    count = 100_000
    triples = list(grid(count, seed=77, step=3))
    triples[AXES[axis]] = torch.arange(count)
    drawn = noise(*triples).double()
    uniform = torch.exp(-torch.exp(-drawn)) - 0.5
    correlation = float((uniform[:-lag] * uniform[lag:]).mean() * 12)
    assert abs(correlation) < 4 / math.sqrt(count)


def test_axes_do_not_stand_in_for_each_other() -> None:
    side = 60
    axis = torch.arange(side)
    seeds, steps, ids = (grid_.flatten() for grid_ in torch.meshgrid(axis, axis, axis, indexing="ij"))
    drawn = keyed(seeds, steps, ids[:, None])
    assert (
        len(set(drawn.flatten().tolist())) > 0.97 * side**3
    )  # float32 holds about 2**24 values where Gumbels are dense
    square = noise(seeds, steps, ids).double().view(side, side, side)
    uniform = torch.exp(-torch.exp(-square)) - 0.5
    for other in (uniform.transpose(0, 1), uniform.transpose(1, 2), uniform.transpose(0, 2)):
        off = uniform != other
        assert abs(float((uniform * other)[off].mean() * 12)) < 5 / math.sqrt(side**3)


@pytest.mark.parametrize("bit", [0, 1, 31, 32, 62])
def test_one_changed_bit_of_the_seed_changes_everything(bit: int) -> None:
    count = 10_000
    zero, ids = torch.zeros(count, dtype=torch.int64), torch.arange(count)
    pair = torch.stack([noise(zero, zero, ids), noise(zero + (1 << bit), zero, ids)]).double()
    correlation = torch.corrcoef(torch.exp(-torch.exp(-pair)))[0, 1]
    assert abs(float(correlation)) < 4 / math.sqrt(count)


def test_noise_is_independent_of_batch_slot_order_and_integer_width() -> None:
    seeds, steps = torch.tensor([3, 9, 2**63 - 1, 0]), torch.tensor([0, 5, 7, 2048])
    ids = torch.randint(0, 150_000, (4, 30), generator=torch.Generator().manual_seed(1))
    together = keyed(seeds, steps, ids)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(keyed(seeds[order], steps[order], ids[order]), together[order])
    columns = torch.randperm(30, generator=torch.Generator().manual_seed(2))
    assert torch.equal(keyed(seeds, steps, ids[:, columns]), together[:, columns])
    for row in range(4):
        alone = keyed(seeds[row : row + 1], steps[row : row + 1], ids[row : row + 1])
        assert torch.equal(alone[0], together[row])
    assert torch.equal(keyed(seeds, steps.int(), ids.int()), together)


def test_noise_stays_what_it_was() -> None:
    """A recorded answer can be drawn again only while these numbers stand: a change of them is a change of format."""
    drawn = keyed(torch.tensor([0, 7]), torch.tensor([0, 3]), torch.tensor([[0, 1], [151_643, 42]]))
    expected = torch.tensor([[-0.680757821, 3.529359818], [-0.645911932, 4.784522057]])
    assert torch.allclose(drawn, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", [0, -1])
def test_noise_is_finite_at_the_ends_of_the_uniform(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.noise._mix", lambda x: torch.full_like(x, bits))
    drawn = gumbel(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64))
    assert torch.isfinite(drawn).all()
    assert drawn.dtype == torch.float32
    assert abs(float(drawn)) > 3.5  # the ends of 52 bits: -3.6 and 36.7


def test_choices_of_one_request_have_seeds_of_their_own() -> None:
    seeds = [choice_seed(7, choice) for choice in range(128)] + [choice_seed(8, choice) for choice in range(128)]
    assert len(set(seeds)) == 256
    assert seeds[0] == 7
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert choice_seed(2**63 - 1, 127) == choice_seed(2**63 - 1, 127)
