"""The benches measure, so their tests run with nothing beside them."""

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this directory; the hook is given those of all others too."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("alone")
