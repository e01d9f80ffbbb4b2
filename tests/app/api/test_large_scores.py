"""Tens of megabytes of log-probabilities: others are served meanwhile, and a client that leaves is noticed."""

import gc
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.api.http.rendering import encoded
from tests.app.api.live import CONTEXT, Live, sse, wait_for

MANY: dict[str, Any] = {
    "model": "lepo",
    "prompt": [[5 + (row + place) % 200 for place in range(CONTEXT - 1)] for row in range(128)],
    "echo": True,
    "logprobs": 20,
    "max_tokens": 0,
}
DRAWN: dict[str, Any] = {
    "model": "lepo",
    "prompt": "What is 2 + 3",
    "n": 128,
    "max_tokens": 200,
    "logprobs": 20,
    "ignore_eos": True,
    "latent": {"length": 0},
}
HELD_S = 0.1  # processor time that the loop may be held in one piece: thrice of what it takes on a busy machine


@pytest.fixture
def holds(live: Live) -> Iterator[list[float]]:
    """Seconds of processor time that the server's event loop spent between two looks, a millisecond apart.

    Not seconds on the clock, which are other processes' too: those are `lepo bench health`'s.
    """
    found: list[float] = []
    loop = live.httpd.config.app.state.server.bell._loop  # type: ignore[union-attr]
    over = threading.Event()

    def look(before: float) -> None:
        now = time.thread_time()
        found.append(now - before)
        if not over.is_set():
            loop.call_later(0.001, look, now)

    gc.collect()
    gc.freeze()  # as `app.api.serve` does: what was there before is not looked through again
    loop.call_soon_threadsafe(lambda: look(time.thread_time()))
    yield found
    over.set()
    gc.unfreeze()


@pytest.mark.parametrize(
    "body",
    [MANY, MANY | {"max_tokens": 1, "stream": True}, DRAWN, DRAWN | {"stream": True}],
    ids=["scored", "scored streamed", "drawn", "drawn streamed"],
)
def test_others_have_their_turn_while_large_responses_are_made(
    live: Live, holds: list[float], body: dict[str, Any]
) -> None:
    response = live.http().post("/v1/completions", json=body, timeout=300)
    assert response.status_code == 200, response.text[:300]
    if body.get("stream"):
        assert len(sse(response)) > 128
    else:
        shown = response.json()["choices"]
        assert {len(one["logprobs"]["top_logprobs"]) for one in shown} == {CONTEXT - 1 if "echo" in body else 200}
    assert len(holds) > 10
    assert max(holds) < HELD_S


def test_a_client_that_left_is_noticed_and_its_prompts_are_not_scored(live: Live) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{live.url}/v1/completions",
            json=MANY,
            headers={"Authorization": f"Bearer {live.keys['both']}"},
            timeout=httpx.Timeout(5, read=0.05),
        )
    began = time.monotonic()
    wait_for(lambda: live.engine._scorer.waiting == 0)
    gone_s = time.monotonic() - began
    began = time.monotonic()
    assert live.http().post("/v1/completions", json=MANY | {"logprobs": 1}, timeout=60).status_code == 200
    assert gone_s < (time.monotonic() - began) / 2, "it was not worked through"


def test_pieces_are_the_json_of_the_whole() -> None:
    value = {"a": [], "b": {}, "é": [1.5, None, True, {"x": ["\n", {"y": [[1, 2], "ü"]}]}], "c": "z"}
    assert encoded(value).decode() == json.dumps(value, ensure_ascii=False, separators=(",", ":"))
