"""Who holds which block: shared, known, kept for a while, and never written while others may read it."""

import random

import pytest

from app.decoder.cache import BLOCK, PADDING
from app.engine.blocks import Blocks

IDS = tuple(range(100, 100 + 3 * BLOCK))


def piece(number: int, ids: tuple[int, ...] = IDS) -> tuple[int, ...]:
    return ids[number * BLOCK : (number + 1) * BLOCK]


def known_chain(blocks: Blocks, root: int, count: int, ids: tuple[int, ...] = IDS) -> list[int]:
    """Hold new blocks and let them be found by their tokens."""
    taken = blocks.take(count)
    assert taken is not None
    for number, block in enumerate(taken):
        root = blocks.know(root, piece(number, ids), block)
    return taken


def test_nobody_gets_the_padding_and_nothing_is_handed_out_twice() -> None:
    blocks = Blocks(9, kept=0)
    taken = blocks.take(8)
    assert taken is not None
    assert sorted(taken) == list(range(1, 9))
    assert PADDING not in taken
    assert blocks.take(1) is None
    assert (blocks.free, blocks.held) == (0, 8)
    blocks.give_back(taken[:3])
    assert blocks.take(4) is None
    assert sorted(blocks.take(3) or []) == sorted(taken[:3])


def test_a_shared_block_is_free_when_its_last_holder_lets_go() -> None:
    blocks = Blocks(3, kept=0)
    (one,) = blocks.take(1) or []
    assert not blocks.shared(one)
    blocks.share([one])
    assert blocks.shared(one)
    blocks.give_back([one])
    assert blocks.held == 1
    blocks.give_back([one])
    assert blocks.held == 0


def test_what_is_known_is_found_by_its_tokens_and_those_before_it() -> None:
    blocks = Blocks(9, kept=8)
    root = blocks.root()
    taken = known_chain(blocks, root, 2)
    assert [one.block for one in blocks.find(root, IDS)] == taken
    assert [one.block for one in blocks.find(root, IDS[: 2 * BLOCK - 1])] == taken[:1]
    assert blocks.find(root, IDS[BLOCK:]) == []
    assert blocks.find(blocks.root(), IDS) == [], "another version's"
    assert blocks.shared(taken[0]), "it must not be written any more"


def test_two_that_computed_the_same_are_known_once() -> None:
    blocks = Blocks(9, kept=8)
    root = blocks.root()
    first, second = known_chain(blocks, root, 2), known_chain(blocks, root, 2)
    assert [one.block for one in blocks.find(root, IDS)] == first
    assert blocks.known == 2
    blocks.give_back(second)
    assert blocks.free == 6
    assert blocks.known == 2


def test_kept_blocks_go_when_they_are_needed_the_ends_of_the_oldest_first() -> None:
    blocks = Blocks(7, kept=6)
    root, other = blocks.root(), tuple(range(200, 200 + 3 * BLOCK))
    old, new = known_chain(blocks, root, 3), known_chain(blocks, root, 3, other)
    blocks.give_back(old)
    blocks.give_back(new)
    assert (blocks.free, blocks.known) == (6, 6)
    assert blocks.take(2) == [old[2], old[1]]
    assert [one.block for one in blocks.find(root, IDS)] == old[:1]
    assert [one.block for one in blocks.find(root, other)] == new


def test_what_is_used_again_is_not_the_next_to_go() -> None:
    blocks = Blocks(3, kept=2)
    root, other = blocks.root(), tuple(range(200, 200 + BLOCK))
    first, second = known_chain(blocks, root, 1), known_chain(blocks, root, 1, other)
    blocks.give_back(first)
    blocks.give_back(second)
    blocks.share(first)
    blocks.give_back(first)
    assert blocks.take(1) == second


@pytest.mark.parametrize(("kept", "left"), [(0, 0), (1, 1), (8, 2)])
def test_no_more_are_kept_than_is_allowed(kept: int, left: int) -> None:
    blocks = Blocks(9, kept=kept)
    blocks.give_back(known_chain(blocks, blocks.root(), 2))
    assert blocks.known == left
    assert blocks.free == 8


def test_random_use_loses_no_block() -> None:
    draw = random.Random(3)
    blocks, root = Blocks(33, kept=7), 0
    root = blocks.root()
    held: list[list[int]] = []
    for _ in range(4000):
        if held and draw.random() < 0.5:
            blocks.give_back(held.pop(draw.randrange(len(held))))
            continue
        ids = tuple(draw.randrange(2) for _ in range(3)) * BLOCK
        found = blocks.find(root, ids[: 2 * BLOCK])
        blocks.share([one.block for one in found])
        taken = blocks.take(2 - len(found))
        if taken is None:
            blocks.give_back([one.block for one in found])
            continue
        chain, at = [*(one.block for one in found), *taken], found[-1].number if found else root
        for number in range(len(found), 2):
            at = blocks.know(at, ids[number * BLOCK : (number + 1) * BLOCK], chain[number])
        held.append(chain)
        assert blocks.held == len({block for chain in held for block in chain})
    for chain in held:
        blocks.give_back(chain)
    assert (blocks.held, blocks.free) == (0, 32)
    assert blocks.known <= 7
