"""The real application on a real socket: uvicorn in a thread, a tiny random model, a real Postgres.

The model is random, so nothing here says that an answer is good; everything around it is what production runs.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, Qwen2Config

from app.api.draining import DrainingServer
from app.api.factory import create_app
from app.api.policy.first import first_policy
from app.api.server import Parts
from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.placements import placements_of
from app.settings import Settings
from app.store import checkpoints
from app.store.budgets import CONTROL, requests
from app.store.connect import Store, open_store
from app.store.keys import create_key
from app.store.policy_life import serving
from app.telemetry.tracing import telemetry_of
from tests.patience import PATIENCE_S
from training.demo_model.tokenizer import build_tokenizer
from training.models.checkpoint import publish
from training.models.policy import fingerprint, load_policy
from training.placement import declare_placement

CONTEXT = 256
ROOMY = 2048  # tokens
SCOPES = {"infer": ["infer"], "grade": ["grade"], "both": ["infer", "grade"], "admin": ["admin"]}


def tiny(vocabulary: int) -> PreTrainedConfig:
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        initializer_range=0.1,
    )
    declare_placement(config, "answer")
    return config


def write_model(directory: Path, positions: int) -> Path:
    """Write a random Qwen2 with the demo's tokenizer and chat template, in the Hugging Face layout."""
    config = tiny(512)
    config.max_position_embeddings = positions
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    build_tokenizer(positions).save_pretrained(directory)
    return directory


@dataclass
class Live:
    """A server that answers at `url`."""

    url: str
    settings: Settings
    engine: Engine
    store: Store
    keys: dict[str, str]  # by the names of SCOPES
    httpd: DrainingServer
    clients: dict[str | None, httpx.Client]  # by the same names; None sends no key

    def http(self, key: str | None = "both") -> httpx.Client:
        """A client with one of the keys, or none."""
        return self.clients[key]

    def chat(self, key: str | None = "both", **body: Any) -> httpx.Response:
        """Ask one chat question."""
        asked = {"model": "lepo", "messages": [{"role": "user", "content": "What is 2 + 3"}], "seed": 1, **body}
        return self.http(key).post("/v1/chat/completions", json=asked)

    def answer(self, **body: Any) -> dict[str, Any]:
        """Ask one short chat question that must be answered."""
        response = self.chat(**{"max_tokens": 4, **body})
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    def close(self) -> None:
        for client in self.clients.values():
            client.close()


@contextmanager
def served(
    url: str, model_dir: Path, var_dir: Path, *, redis_url: str | None = None, **overrides: Any
) -> Iterator[Live]:
    """Run a server until the block ends."""
    settings = Settings(
        **{
            "var_dir": var_dir,
            "database_url": url,
            "model": str(model_dir),
            "device": "cpu",
            "max_length": CONTEXT,
            "slots": 8,
            "latent_length": 3,
            "port": 0,
            "drain_seconds": 1.0,
            **overrides,
        }
    )
    with ExitStack() as held:
        store = held.enter_context(
            closing(open_store(url, settings.database_pool, requests(settings.database_timeout)))
        )
        control = held.enter_context(closing(open_store(url, settings.control_pool, CONTROL)))
        policy = first_policy(settings, control)
        engine = Engine(policy, EngineConfig.from_settings(settings))
        placements = placements_of(settings, policy)
        telemetry = held.enter_context(closing(telemetry_of(settings, "serve")))
        app = create_app(Parts(settings, engine, policy.tokenizer, placements, store, control, redis_url, telemetry))
        httpd = DrainingServer.of(app, engine, settings)
        thread = threading.Thread(target=httpd.run, name="uvicorn")
        thread.start()
        held.callback(ended, httpd, thread)
        wait_for(lambda: httpd.started or not thread.is_alive())
        port = httpd.servers[0].sockets[0].getsockname()[1]
        with store.session() as session:
            keys = {name: create_key(session, name, scopes)[1] for name, scopes in SCOPES.items()}
        url = f"http://127.0.0.1:{port}"
        clients: dict[str | None, httpx.Client] = {None: httpx.Client(base_url=url, timeout=PATIENCE_S)}
        for name, key in keys.items():
            headers = {"Authorization": f"Bearer {key}"}
            clients[name] = httpx.Client(base_url=url, timeout=PATIENCE_S, headers=headers)
        live = Live(url, settings, engine, store, keys, httpd, clients)
        held.callback(live.close)
        yield live


def ended(httpd: DrainingServer, thread: threading.Thread) -> None:
    """Stop a server; its stores are closed behind it."""
    httpd.should_exit = True
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def new_checkpoint(live: Live, *, seed: int = 0, broken: bool = False) -> int:
    """Publish slightly different weights as the next version; returns it. A broken one fails its verification."""
    with live.store.session() as session:
        parent = serving(session)
        assert parent is not None
        version = checkpoints.next_version(session)
        policy = load_policy(parent.path, version=version, dtype=torch.float32, device="cpu")
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for parameter in policy.model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        directory = publish(
            policy,
            live.settings.var_dir / "checkpoints",
            version=version,
            parent_version=parent.version,
            training={},
            created="2026-01-01T00:00:00Z",
        )
        if broken:
            with (directory / "model.safetensors").open("r+b") as weights:
                weights.seek(-4, 2)
                weights.write(b"\x01\x02\x03\x04")
        checkpoints.publish(
            session, path=str(directory), digest=fingerprint(policy.model), parent_id=parent.id, version=version
        )
    return version


def wait_for(condition: Any, seconds: float = PATIENCE_S) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def sse(response: httpx.Response) -> list[str]:
    """The data of each event of a streamed response."""
    return [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
