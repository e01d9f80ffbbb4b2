"""The tiny random model that stands for a real one."""

from pathlib import Path

import pytest

from tests.worker.world import make_model


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))
