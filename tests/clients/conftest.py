"""A running server, and the clients' programs run against it, each once."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from tests.app.api.live import ROOMY, Live, served, write_model
from tests.clients.programs.place import Place
from tests.clients.table import ROOT, Report, page

PYTHON = ROOT / ".venv-clients" / "bin" / "python"  # `make clients` makes it
INSTALLED = ROOT / ".venv-clients" / ".installed"  # and this when it is whole
OURS = ("with_openai", "with_agents")  # run in the project's own environment, which has these clients
CLIENTS = (*OURS, "with_litellm", "with_langchain", "with_instructor", "with_lm_eval", "with_guidellm")
SECONDS = 600  # that one program may take, on a busy machine
# No client may want anything but the server: no hub, no price lists, no tracing.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
}

Run = Callable[[str], Report]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add where the table goes."""
    parser.addoption("--clients-table", type=Path, help="write what the clients did to this page: docs/clients.md")


def program(client: str) -> ModuleType:
    """Import a client's program, which imports the client only when it runs."""
    return importlib.import_module(f"tests.clients.programs.{client}")


@pytest.fixture(scope="module")
def server(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One server for all clients, with room for tools."""
    model_dir = write_model(tmp_path_factory.mktemp("model"), ROOMY)
    with served(
        module_database_url, model_dir, tmp_path_factory.mktemp("var"), max_length=ROOMY, latent_length=2
    ) as live:
        yield live


@pytest.fixture(scope="module")
def run(server: Live, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Run]:
    """Run a client's program, once, and give what came of it; skips where the client is not installed."""
    reports: dict[str, Report] = {}

    @cache
    def ran(client: str) -> Report:
        python = Path(sys.executable) if client in OURS else PYTHON
        package = program(client).PACKAGE
        if client not in OURS and not INSTALLED.exists():
            pytest.skip(f"needs {package} in .venv-clients: make clients")
        if client in OURS and importlib.util.find_spec(package.removeprefix("openai-")) is None:
            pytest.skip(f"needs {package}: pip install 'lepo-service[clients]'")
        scratch = tmp_path_factory.mktemp(client)
        reports[package] = report_of(client, python, server, scratch)
        return reports[package]

    yield ran
    if (table := pytestconfig.getoption("--clients-table", None)) is not None:
        missing = {program(client).PACKAGE for client in CLIENTS} - reports.keys()
        assert not missing, f"no table of a run without {', '.join(sorted(missing))}"
        table.write_text(page(reports))


def report_of(client: str, python: Path, server: Live, scratch: Path) -> Report:
    """Run a program in a process of its own."""
    place = Place(server.url, server.keys["both"], str(server.settings.model), str(scratch))
    asked, out = scratch / "place.json", scratch / "out.json"
    asked.write_text(json.dumps(asdict(place)))
    environment = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    done = subprocess.run(
        [python, "-m", "tests.clients.programs", client, asked, out],
        cwd=scratch,
        env={**environment, **OFFLINE, "HOME": str(scratch), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    sys.stderr.write(done.stderr[-20_000:])  # what failed, and where
    assert done.returncode == 0, f"{client} ended with {done.returncode}: {done.stderr[-2000:]}"
    return Report(**json.loads(out.read_text()))
