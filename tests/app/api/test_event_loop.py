"""Large requests do not stop the event loop: others are answered meanwhile, and a client that leaves is noticed.

The asking client is a process of its own, or its reading of a large answer would hold this one's interpreter.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.app.api.live import Live, served, tiny
from training.demo_model.tokenizer import build_tokenizer

LENGTH = 500
PROMPTS = 128
QUICK_S = 0.05
ASKER = """
import sys, urllib.error, urllib.request
url, key, body, out = sys.argv[1:]
headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
request = urllib.request.Request(url, open(body, "rb").read(), headers)
try:
    response = urllib.request.urlopen(request, timeout=120)
except urllib.error.HTTPError as error:
    sys.exit(error.read().decode())
with response, open(out, "wb") as kept:
    while piece := response.read(1 << 20):
        kept.write(piece)
"""


@pytest.fixture(scope="module")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("long")
    config = tiny(512)
    config.max_position_embeddings = 1024
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    build_tokenizer(1024).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def long(module_database_url: str, long_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    var_dir = tmp_path_factory.mktemp("var")
    with served(module_database_url, long_model, var_dir, max_length=1024, slots=128) as server:
        yield server


@contextmanager
def asking(live: Live, directory: Path, path: str, **body: Any) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """Ask from another process; its answer is a file once it has ended."""
    asked, answered = directory / "asked.json", directory / "answered"
    asked.write_text(json.dumps({"model": "lepo", **body}))
    command = [sys.executable, "-c", ASKER, live.url + path, live.keys["both"], str(asked), str(answered)]
    process = subprocess.Popen(command)
    try:
        yield process, answered
    finally:
        process.kill()
        process.wait()


def slowest_health(live: Live, process: "subprocess.Popen[bytes]") -> list[float]:
    """Seconds that /health took while a process ran, the longest first."""
    seconds = []
    client = live.http(None)
    client.get("/health")
    while process.poll() is None:
        began = time.monotonic()
        assert client.get("/health").status_code == 200
        seconds.append(time.monotonic() - began)
        time.sleep(0.002)
    assert process.returncode == 0
    return sorted(seconds, reverse=True)


def prompts() -> list[list[int]]:
    return [[5 + (row * 7 + place) % 480 for place in range(LENGTH)] for row in range(PROMPTS)]


@pytest.mark.alone
def test_scoring_many_prompts_leaves_the_loop_free(long: Live, tmp_path: Path) -> None:
    body = {"prompt": prompts(), "echo": True, "logprobs": 20, "max_tokens": 0}
    with asking(long, tmp_path, "/v1/completions", **body) as (process, answered):
        seconds = slowest_health(long, process)
    print(len(seconds), seconds[:8], answered.stat().st_size)
    found = json.loads(answered.read_bytes())
    assert len(found["choices"]) == PROMPTS
    assert all(len(choice["logprobs"]["top_logprobs"]) == LENGTH for choice in found["choices"])
    assert seconds[0] < QUICK_S, seconds[:8]
