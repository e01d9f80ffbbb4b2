"""Fixtures over `live.py`: a model on disk, a server per file, the stock client."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from tests.app.api.live import CONTEXT, ROOMY, Live, served, write_model


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model, in the Hugging Face layout."""
    return write_model(tmp_path_factory.mktemp("model"), CONTEXT)


@pytest.fixture(scope="module")
def live(module_database_url: str, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One server for the tests of a file."""
    with served(module_database_url, model_dir, tmp_path_factory.mktemp("var")) as server:
        yield server


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[OpenAI]:
    """The stock client, with a key that may infer and grade."""
    with OpenAI(base_url=f"{live.url}/v1", api_key=live.keys["both"], max_retries=0) as stock:
        yield stock


@pytest.fixture(scope="session")
def roomy_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with room for tools: its tokens are single letters."""
    return write_model(tmp_path_factory.mktemp("roomy"), ROOMY)


@pytest.fixture(scope="module")
def roomy(module_database_url: str, roomy_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One server of that model for the tests of a file."""
    with served(
        module_database_url, roomy_dir, tmp_path_factory.mktemp("var"), max_length=ROOMY, latent_length=2
    ) as server:
        yield server


@pytest.fixture(scope="module")
def roomy_client(roomy: Live) -> Iterator[OpenAI]:
    """The stock client of that server."""
    with OpenAI(base_url=f"{roomy.url}/v1", api_key=roomy.keys["both"], max_retries=0) as stock:
        yield stock
