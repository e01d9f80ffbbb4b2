"""Fixtures over `live.py`: a model on disk, a server per file, the stock client."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from openai import OpenAI
from transformers import AutoModelForCausalLM

from tests.app.api.live import CONTEXT, ROOMY, Live, served, tiny
from training.demo_model.tokenizer import build_tokenizer


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 with the demo's tokenizer and chat template, in the Hugging Face layout."""
    directory = tmp_path_factory.mktemp("model")
    tokenizer = build_tokenizer(CONTEXT)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        AutoModelForCausalLM.from_config(tiny(512)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


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
    directory = tmp_path_factory.mktemp("roomy")
    config = tiny(512)
    config.max_position_embeddings = ROOMY
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    build_tokenizer(ROOMY).save_pretrained(directory)
    return directory


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
