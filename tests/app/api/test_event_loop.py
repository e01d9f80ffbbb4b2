"""Large requests do not stop the event loop: others are answered meanwhile, and a client that leaves is noticed.

Server, asking client and the one that looks at /health are processes of their own: two that share an interpreter would
hold each other up.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from starlette.responses import JSONResponse
from transformers import AutoModelForCausalLM

from app.api.http.large import pieces
from app.store.connect import open_store
from app.store.keys import create_key
from tests.app.api.live import Live, served, tiny, wait_for
from tests.app.api.test_serve import environment, free_port, is_ready, process
from training.demo_model.tokenizer import build_tokenizer

LENGTH = 500
PROMPTS = 128
CONTEXT = 1024
QUICK_S = 0.05
ASKER = """
import sys, urllib.error, urllib.request
url, key, body, out = sys.argv[1:]
headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
request = urllib.request.Request(url, open(body, "rb").read(), headers)
try:
    response = urllib.request.urlopen(request, timeout=200)
except urllib.error.HTTPError as error:
    sys.exit(error.read().decode())
with response, open(out, "wb") as kept:
    while piece := response.read(1 << 16):
        kept.write(piece)
"""


@dataclass(frozen=True)
class Service:
    """`lepo serve` in a process of its own."""

    url: str
    key: str


@pytest.fixture(scope="module")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("long")
    config = tiny(512)
    config.max_position_embeddings = CONTEXT
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    build_tokenizer(CONTEXT).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def service(module_database_url: str, long_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    port = free_port()
    env = environment(module_database_url, long_model, tmp_path_factory.mktemp("var"), port)
    with process(env | {"LEPO_MAX_LENGTH": str(CONTEXT), "LEPO_SLOTS": "128"}) as running:
        wait_for(lambda: running.poll() is not None or is_ready(port), seconds=120)
        assert running.poll() is None
        store = open_store(module_database_url, pool=1)
        with store.session() as session:
            key = create_key(session, "large", ["infer"])[1]
        store.close()
        yield Service(f"http://127.0.0.1:{port}", key)


@contextmanager
def asking(
    service: Service, directory: Path, path: str, **body: Any
) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """Ask from another process; its answer is a file once it has ended."""
    asked, answered = directory / "asked.json", directory / "answered"
    asked.write_text(json.dumps({"model": "lepo", **body}))
    command = [sys.executable, "-c", ASKER, service.url + path, service.key, str(asked), str(answered)]
    client = subprocess.Popen(command)
    try:
        yield client, answered
    finally:
        client.kill()
        client.wait()


def looked_at(service: Service, until: "subprocess.Popen[bytes] | float") -> list[float]:
    """Seconds that /health took while a process ran, or for so many seconds; the longest first."""
    seconds = []
    began = time.monotonic()
    with httpx.Client(base_url=service.url, timeout=60) as client:
        client.get("/health")
        while time.monotonic() < began + until if isinstance(until, float) else until.poll() is None:
            asked = time.monotonic()
            assert client.get("/health").status_code == 200
            seconds.append(time.monotonic() - asked)
            time.sleep(0.005)
    return sorted(seconds, reverse=True)


def prompts() -> list[list[int]]:
    return [[5 + (row * 7 + place) % 480 for place in range(LENGTH)] for row in range(PROMPTS)]


@pytest.mark.alone
@pytest.mark.parametrize("stream", [False, True])
def test_scoring_many_prompts_leaves_the_loop_free(service: Service, tmp_path: Path, stream: bool) -> None:
    """Where the machine itself is busy, an idle server's slowest answers are what cannot be had quicker."""
    idle = looked_at(service, 2.0)
    wanted: dict[str, Any] = {"stream": True, "max_tokens": 1} if stream else {"max_tokens": 0}
    body = {"prompt": prompts(), "echo": True, "logprobs": 20, **wanted}
    with asking(service, tmp_path, "/v1/completions", **body) as (client, answered):
        seconds = looked_at(service, client)
        assert client.returncode == 0
    sys.stderr.write(f"\nidle {idle[:4]}\nbusy {len(seconds)} {seconds[:8]} {answered.stat().st_size}\n")
    if not stream:
        found = json.loads(answered.read_bytes())
        assert len(found["choices"]) == PROMPTS
        assert all(len(choice["logprobs"]["top_logprobs"]) == LENGTH for choice in found["choices"])
    assert seconds[0] < QUICK_S + idle[0], seconds[:8]


def test_a_client_that_leaves_takes_its_prompts_back(
    database_url: str, long_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(database_url, long_model, tmp_path, max_length=CONTEXT) as live:
        advance = live.engine._scorer.advance

        def slow(policy: Any) -> None:
            time.sleep(0.05)  # else all may be scored before the client has left
            advance(policy)

        monkeypatch.setattr(live.engine._scorer, "advance", slow)
        body = {"model": "lepo", "prompt": prompts(), "echo": True, "logprobs": 1, "max_tokens": 0}
        with pytest.raises(httpx.ReadTimeout):
            live.http().post("/v1/completions", json=body, timeout=httpx.Timeout(10, read=0.5))
        wait_for(lambda: left(live) >= 1, seconds=5)  # all of them would take six seconds and more
        assert live.engine._scorer.waiting > PROMPTS // 4, "it was noticed before they were scored"


def left(live: Live) -> float:
    """How many requests ended because their client had left, as counted."""
    lines = live.http(None).get("/metrics").text.splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if line.startswith("lepo:http_requests_total") and '"499"' in line
    )


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        {"a": [], "b": {}, "c": None, "ü\n": "x\u2028"},
        [[1] * 100, [{"x": [0.5] * 70, "y": {}}] * 40],
        {"choices": [{"top": [{"a": -0.1, "b": -9999.0}] * 65, "tokens": ["é"] * 33}] * 2},
        7,
    ],
)
def test_pieces_are_what_the_standard_encoder_writes(value: Any) -> None:
    assert b"".join(pieces(value)) == JSONResponse(value).body
