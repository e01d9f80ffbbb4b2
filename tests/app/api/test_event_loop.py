"""Large requests do not stop the event loop: others are answered meanwhile, and a client that leaves is noticed.

What holds a loop up is measured in this process's CPU time, so that it can be told on a machine that has more to do.
The client of large answers is a process of its own: reading them would hold this one's interpreter.
"""

import asyncio
import gc
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from starlette.responses import JSONResponse
from transformers import AutoModelForCausalLM

from app.api.http.large import pieces
from tests.app.api.live import Live, served, tiny, wait_for
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


@contextmanager
def ticking(live: Live) -> Iterator[list[float]]:
    """Gather, for as long as the block lasts, what this process computed between two turns of the server's loop.

    In seconds of CPU time: a loop that somebody here holds up shows, one that other processes starve does not.
    """
    seconds: list[float] = []
    over = threading.Event()

    async def tick() -> None:
        before = time.process_time()
        while not over.is_set():
            await asyncio.sleep(0.005)
            now = time.process_time()
            seconds.append(now - before)
            before = now

    gc.collect()
    gc.freeze()  # as `lepo serve` does
    ticks = asyncio.run_coroutine_threadsafe(tick(), live.httpd._app.state.server.bell._loop)
    try:
        yield seconds
    finally:
        over.set()
        ticks.result(10)
        gc.unfreeze()


def asked(live: Live, directory: Path, path: str, **body: Any) -> bytes:
    """Ask from another process, which does not hold up this one by reading; gives its answer."""
    question, answer = directory / "question", directory / "answer"
    question.write_text(json.dumps({"model": "lepo", **body}))
    command = [sys.executable, "-c", ASKER, live.url + path, live.keys["both"], str(question), str(answer)]
    subprocess.run(command, check=True)
    return answer.read_bytes()


def prompts() -> list[list[int]]:
    return [[5 + (row * 7 + place) % 480 for place in range(LENGTH)] for row in range(PROMPTS)]


@pytest.mark.alone
@pytest.mark.parametrize("stream", [False, True])
def test_scoring_many_prompts_leaves_the_loop_free(
    module_database_url: str, long_model: Path, tmp_path: Path, stream: bool
) -> None:
    wanted: dict[str, Any] = {"stream": True, "max_tokens": 1} if stream else {"max_tokens": 0}
    body = {"prompt": prompts(), "echo": True, "logprobs": 20, **wanted}
    with served(module_database_url, long_model, tmp_path, max_length=CONTEXT, slots=PROMPTS) as live:
        with ticking(live) as seconds:
            answer = asked(live, tmp_path, "/v1/completions", **body)
        assert len(seconds) > 20, "the loop went on turning"
    if stream:
        events = [line.removeprefix("data: ") for line in answer.decode().splitlines() if line]
        assert events[-1] == "[DONE]"
        choices = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
    else:
        choices = json.loads(answer)["choices"]
    lengths = dict.fromkeys(range(PROMPTS), 0)
    for choice in choices:
        lengths[choice["index"]] += len((choice["logprobs"] or {"tokens": []})["tokens"])
    assert set(lengths.values()) == {LENGTH + wanted["max_tokens"]}
    # A stream also draws: what the engine computes beside the loop, and without holding it up, is counted here as well.
    assert max(seconds) < (4 * QUICK_S if stream else QUICK_S), sorted(seconds)[-8:]


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
