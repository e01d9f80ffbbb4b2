"""The world of this room's tests: one tiny model for all, a fresh database and directory for each."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from app.store.connect import Store
from tests.worker.world import World, make_model, make_world


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors: a second thread only costs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def world(store: Store, model_dir: Path, tmp_path: Path) -> World:
    return make_world(store, model_dir, tmp_path / "var")
