"""Files are read rightly, in parts, into places of any dtype and layout; what is not whole is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from training.models.shards import Different, NotFinite, examine, opened, pour
from training.models.tree import CHUNK, all_known_by, root, root_of


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    """Of every kind: several pieces, an odd end, a scalar, nothing at all, integers."""
    torch.manual_seed(3)
    return {
        "long": torch.randn(17 * CHUNK + 5),
        "half": torch.randn(7, 11, dtype=torch.bfloat16),
        "scalar": torch.tensor(3.5),
        "none": torch.zeros(0, 4),
        "whole": torch.arange(5),
    }


@pytest.fixture
def path(tensors: dict[str, Tensor], tmp_path: Path) -> Path:
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path / "model.safetensors"


def test_examined_files_have_the_root_of_their_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    found = examine(opened(path).tensors, same_as=tensors)
    assert root(found.digests) == root(found.fitted) == root_of(tensors)
    assert found.sums == {name: all_known_by(one) for name, one in tensors.items()}


def test_they_are_poured_into_places_as_they_are(path: Path, tensors: dict[str, Tensor]) -> None:
    stored = opened(path).tensors
    places = {name: torch.full_like(one, 9) for name, one in tensors.items()}
    places["half"] = torch.full((11, 7), 9, dtype=torch.bfloat16).T  # in no single stretch of memory
    pour(stored, places, examine(stored).sums)
    for name, one in tensors.items():
        assert torch.equal(places[name], one)


def test_they_fit_places_of_another_dtype(path: Path, tensors: dict[str, Tensor]) -> None:
    stored = opened(path).tensors
    places = {name: torch.empty(tensors[name].shape, dtype=torch.bfloat16) for name in ("long", "half", "scalar")}
    found = examine(stored, dtypes={name: one.dtype for name, one in places.items()})
    pour(stored, places, found.sums)
    for name, place in places.items():
        assert torch.equal(place, tensors[name].to(torch.bfloat16))
    assert root({name: found.fitted[name] for name in places}) == root_of(places)
    assert root(found.digests) == root_of(tensors)


def test_a_number_that_is_none_is_named(path: Path, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    bad = {**tensors, "long": tensors["long"].clone()}
    bad["long"][-1] = float("inf")
    save_file(bad, tmp_path / "bad.safetensors")
    with pytest.raises(NotFinite, match=r"^long$"):
        examine(opened(tmp_path / "bad.safetensors").tensors)
    examine(opened(tmp_path / "bad.safetensors").tensors, all_finite=False)
    with pytest.raises(Different, match=r"^long$"):
        examine(opened(tmp_path / "bad.safetensors").tensors, all_finite=False, same_as=tensors)


def test_a_file_that_changes_after_it_was_examined_is_found(path: Path, tensors: dict[str, Tensor]) -> None:
    stored = opened(path).tensors
    sums = examine(stored).sums
    with path.open("r+b") as file:
        file.seek(stored["long"].start + 4 * (16 * CHUNK + 9))
        file.write(b"\x01\x02")
    with pytest.raises(Different, match=r"^long$"):
        pour(stored, {name: torch.empty_like(one) for name, one in tensors.items()}, sums)
    with path.open("r+b") as file:
        file.truncate(stored["long"].start + 100)
    with pytest.raises(ValueError, match="cut it short"):
        pour(stored, {"long": torch.empty_like(tensors["long"])}, sums)


def rewritten(path: Path, change: Callable[[dict[str, dict[str, object]]], object]) -> None:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    new = json.dumps(header).encode()
    path.write_bytes(len(new).to_bytes(8, "little") + new + content[8 + length :])


HEADERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: path.write_bytes(b""), "no safetensors file"),
    "no header": (lambda path: path.write_bytes(b"\xff" * 64), "no safetensors file"),
    "no JSON": (lambda path: path.write_bytes((9).to_bytes(8, "little") + b"{{{{{{{{{"), "cannot be read"),
    "a list": (lambda path: path.write_bytes((2).to_bytes(8, "little") + b"[]"), "cannot be read"),
    "an end cut off": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "by its header"),
    "a byte too many": (lambda path: path.write_bytes(path.read_bytes() + b"x"), "by its header"),
    "another dtype": (lambda path: rewritten(path, lambda h: h["half"].update(dtype="F8_E5M2")), "cannot be read"),
    "a larger shape": (lambda path: rewritten(path, lambda h: h["half"].update(shape=[7, 12])), "half lies from"),
    "a gap": (lambda path: rewritten(path, lambda h: h.pop("whole")), "lies from"),
    "two in one place": (lambda path: rewritten(path, lambda h: h.update(twin=h["half"])), "lies from"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_file_that_is_not_whole_is_refused(path: Path, kind: str) -> None:
    opened(path)
    damage, message = HEADERS[kind]
    damage(path)
    with pytest.raises(ValueError, match=message):
        opened(path)
