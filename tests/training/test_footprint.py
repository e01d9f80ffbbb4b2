"""What is planned for an update is what it takes: what is held is counted, activations lie within a factor of two."""

import json
import os
import subprocess
import sys

import pytest

from training.memory.footprint import (
    LEAST_POSITIONS,
    MOST_POSITIONS,
    Activations,
    Learned,
    activations_of,
    held_by,
    planned,
)

from .rollouts import tiny

N = 1_000_000
EACH = Activations(position=1000, pair=0, scored=0, chunk=1, head=0)
OWN = Learned(number=N, item=4, own=True, idle=0)


@pytest.mark.parametrize(
    ("undo", "several", "bytes_each"), [(True, False, 24), (True, True, 28), (False, False, 16), (False, True, 16)]
)
def test_full_fine_tuning_in_float32_takes_so_many_bytes_a_parameter(
    undo: bool, several: bool, bytes_each: int
) -> None:
    assert held_by(OWN, weights=4 * N, undo=undo).most(several=several) == bytes_each * N


def test_bfloat16_has_masters_and_gradients_of_its_own_and_idle_weights_no_moments() -> None:
    held = held_by(Learned(number=N, item=2, own=False, idle=N // 4), weights=2 * N, undo=True)
    assert (held.masters, held.gradients, held.moments, held.undo) == (4 * N, 6 * N, 6 * N, 10 * N)


def test_micro_batches_are_powers_of_two_within_half_of_what_is_free() -> None:
    held = held_by(OWN, weights=4 * N, undo=True)
    sizes = {free: planned(held, EACH, free, longest=10, several=False).positions for free in range(0, 60 * N, N // 4)}
    assert min(sizes.values()) == LEAST_POSITIONS
    assert max(sizes.values()) == MOST_POSITIONS
    assert list(sizes.values()) == sorted(sizes.values())
    assert {one.bit_count() for one in sizes.values()} == {1}
    for free, positions in sizes.items():
        room = (free - 16 * N) / 2
        assert positions in {LEAST_POSITIONS, MOST_POSITIONS} or 1000 * positions <= room < 2000 * positions


def test_what_is_there_already_is_not_asked_for_again_and_a_number_decides() -> None:
    held, free = held_by(OWN, weights=4 * N, undo=True), 20 * N
    fresh = planned(held, EACH, free, longest=10, several=False)
    assert planned(held, EACH, free, longest=10, several=False, there=12 * N).positions == 4 * fresh.positions
    assert planned(held, EACH, free, longest=10, several=True).positions < fresh.positions
    assert planned(held, EACH, 0, longest=10, several=False, positions=300).positions == 300
    assert fresh.most == 24 * N + 1000 * fresh.positions
    assert planned(held, EACH, 0, longest=500, several=False).activations == 1000 * 500, "one rollout by itself"


def test_eager_attention_counts_pairs_of_positions_and_a_chunk_bounds_the_logits() -> None:
    each = Activations(position=100, pair=3, scored=1000, chunk=50, head=7)
    assert each.bytes(40, 10) == 7 + 40 * (100 + 30) + 40_000
    assert each.bytes(400, 10) - each.bytes(50, 10) == 350 * 130
    assert activations_of(tiny("qwen2"), recomputed=False, chunk_elements=370).chunk == 10


SHAPES = [  # hidden, layers, vocabulary, rollouts, positions of each, attention, whether layers are recomputed
    [256, 8, 512, 8, 256, "sdpa", False],
    [512, 6, 512, 4, 256, "sdpa", False],
    [256, 2, 16_384, 8, 256, "sdpa", False],
    [256, 8, 512, 2, 768, "eager", False],
    [256, 12, 512, 8, 256, "sdpa", True],
]


def test_activations_are_estimated_within_a_factor_of_two() -> None:
    """The high-water marks of gradients in a process of their own, over what was there before."""
    command = [sys.executable, "-m", "tests.training.peak_learner", json.dumps(SHAPES)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert ran.returncode == 0, ran.stderr
    found = [json.loads(line) for line in ran.stdout.splitlines()[-len(SHAPES) :]]
    for shape, figures in zip(SHAPES, found, strict=True):
        assert 0.5 < figures["measured"] / figures["estimated"] < 1.25, (shape, figures)
