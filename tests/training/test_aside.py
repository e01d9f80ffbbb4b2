"""Copies lie beside their originals where there is room for two of them, else on the host."""

import pytest
import torch

from training.memory.aside import Aside, homes

GPU, OTHER, HOST = torch.device("cuda:0"), torch.device("cuda:1"), torch.device("cpu")


@pytest.mark.parametrize(("free", "home"), [(2000, GPU), (1999, HOST), (0, HOST)])
def test_a_device_keeps_copies_only_with_room_to_spare(free: int, home: torch.device) -> None:
    assert homes({GPU: 1000}, lambda _: free) == {GPU: home}


def test_each_device_is_asked_for_itself() -> None:
    assert homes({GPU: 10, OTHER: 10}, {GPU: 100, OTHER: 0}.__getitem__) == {GPU: GPU, OTHER: HOST}


def test_copies_are_copies() -> None:
    original = torch.arange(6.0)
    aside = Aside([original])
    aside.put("x", {"weight": original})
    original.zero_()
    assert {name: one["weight"].tolist() for name, one in aside.items()} == {"x": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]}
    assert list(Aside([]).items()) == []
