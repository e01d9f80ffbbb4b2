"""Tens of megabytes of log-probabilities: others are served meanwhile, and a client that leaves is noticed."""

import json
import threading
import time
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
HEALTH_S = 0.05
BUSY_S = 0.25  # what one look in ten may take on a machine that has more to do


@pytest.mark.alone
@pytest.mark.parametrize("more", [{}, {"max_tokens": 1, "stream": True}], ids=["whole", "stream"])
def test_health_answers_while_long_prompts_are_scored_and_written(live: Live, more: dict[str, Any]) -> None:
    spent: list[float] = []
    over = threading.Event()

    def look() -> None:
        with httpx.Client(base_url=live.url, timeout=30) as client:
            while not over.is_set():
                began = time.perf_counter()
                assert client.get("/health").status_code == 200
                spent.append(time.perf_counter() - began)
                time.sleep(0.01)

    looking = threading.Thread(target=look)
    looking.start()
    response = live.http().post("/v1/completions", json=MANY | more, timeout=120)
    over.set()
    looking.join()
    assert response.status_code == 200, response.text[:300]
    if more:
        assert len(sse(response)) > 128
    else:
        shown = response.json()["choices"]
        assert [len(one["logprobs"]["top_logprobs"]) for one in shown] == [CONTEXT - 1] * 128
    spent.sort()
    assert spent[int(0.9 * len(spent))] < HEALTH_S
    assert spent[-1] < BUSY_S


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
