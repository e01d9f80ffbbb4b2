"""The tree's parts say what they should: digests, numbers that are none, and sums that know a chunk again."""

import hashlib

import numpy as np
import pytest
import torch

from training.models import tree
from training.models.tree import CHUNK, all_known_by, bytes_of, digest, each, finite, known_by, leaf, pieces, root_of

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def raw(tensor: torch.Tensor) -> tree.Bytes:
    return bytes_of(tensor, 0, tensor.numel())


def test_pieces_cover_each_element_once() -> None:
    sizes = {"empty": 0, "one": 1, "whole": CHUNK, "more": 17 * CHUNK + 5}
    covered: dict[str, list[tuple[int, int]]] = {}
    for piece in pieces(sizes):
        covered.setdefault(piece.name, []).extend(piece.chunks())
    assert covered == {
        "one": [(0, 1)],
        "whole": [(0, CHUNK)],
        "more": [*((number * CHUNK, CHUNK) for number in range(17)), (17 * CHUNK, 5)],
    }


def test_a_digest_is_that_of_name_kind_and_leaves() -> None:
    tensor = torch.arange(CHUNK + 3, dtype=torch.float32)
    flat = tensor.numpy().tobytes()
    leaves = [hashlib.sha256(flat[: 4 * CHUNK]).digest(), hashlib.sha256(flat[4 * CHUNK :]).digest()]
    expected = hashlib.sha256(f"x|torch.float32|({CHUNK + 3},)\n".encode() + b"".join(leaves)).digest()
    assert digest("x", torch.float32, (CHUNK + 3,), leaves) == expected
    assert root_of({"x": tensor}) == hashlib.sha256(expected).hexdigest()


@pytest.mark.parametrize("other", ["value", "name", "shape", "dtype", "swapped"])
def test_whatever_differs_gives_another_root(other: str) -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(6)}
    changed = {name: one.clone() for name, one in tensors.items()}
    if other == "value":
        changed["b"][5] = 1e-30
    elif other == "name":
        changed["c"] = changed.pop("b")
    elif other == "shape":
        changed["a"] = changed["a"].view(3, 2)
    elif other == "dtype":
        changed["b"] = changed["b"].view(torch.int32)
    else:
        changed = {"a": torch.zeros(2, 3), "b": torch.arange(6.0)}
    assert root_of(changed) != root_of(tensors)
    assert root_of(dict(reversed(tensors.items()))) == root_of(tensors)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -float("nan")])
def test_a_number_that_is_none_is_found(dtype: torch.dtype, value: float) -> None:
    largest = torch.finfo(dtype).max
    tensor = torch.tensor([0.0, -0.0, largest, -largest, torch.finfo(dtype).tiny, 1.0], dtype=dtype)
    assert finite(raw(tensor), dtype)
    for place in range(len(tensor)):
        bad = tensor.clone()
        bad[place] = value
        assert not finite(raw(bad), dtype)


def test_integers_are_finite_whatever_their_bits() -> None:
    assert finite(raw(torch.full((4,), 0x7F80_0000, dtype=torch.int32)), torch.int32)
    assert finite(raw(torch.zeros(0)), torch.float32)


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("count", [1, 3, 4, 1000, CHUNK, 2 * CHUNK, 2 * CHUNK + 7])
def test_a_device_knows_each_chunk_by_the_same_sum(dtype: torch.dtype, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    tensor = torch.randint(0, 2, (count,), generator=generator).mul(3).sub(1).to(dtype)
    sums = [known_by(bytes_of(tensor, first, min(CHUNK, count - first))) for first in range(0, count, CHUNK)]
    assert all_known_by(tensor) == sums
    tensor[count // 2] = 7 if dtype != torch.bool else ~tensor[count // 2]
    assert all_known_by(tensor) != sums


def test_what_a_thread_raises_is_raised() -> None:
    def odd(number: int) -> int:
        if number % 2:
            raise ValueError(str(number))
        return number

    assert each(odd, range(0, 8, 2)) == [0, 2, 4, 6]
    with pytest.raises(ValueError, match="1"):
        each(odd, range(4))


def test_a_leaf_is_the_hash_of_bytes() -> None:
    assert leaf(np.frombuffer(b"abc", np.uint8)) == hashlib.sha256(b"abc").digest()
