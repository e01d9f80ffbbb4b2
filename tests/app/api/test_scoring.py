"""What evaluation harnesses rely on when they score: each found by running lm-eval's `local-completions` unmodified.

It sends `echo`, `logprobs` and `max_tokens: 1`, adds up `token_logprobs[context:-1]`, and fills the context to the last
position but one: an answer's token that is missing from the lists, or a default that takes room, changes its figures.
"""

import json
from typing import Any

import pytest
import torch
from openai import OpenAI

from app.engine import score
from tests.app.api.live import CONTEXT, Live, sse

TEXT = "What is 40 - 7 + 12"
END = 1  # the end of sequence of `live.tiny`
ENDED: dict[str, Any] = {
    "model": "lepo",
    "max_tokens": 1,
    "logit_bias": {str(END): 100},
}  # the answer's one token ends it


def test_the_token_that_ends_an_answer_is_among_the_scored(live: Live, client: OpenAI) -> None:
    """Else `[:-1]`, which is to drop the answer's one token, drops the prompt's last and the sum is wrong."""
    ids = live.http().post("/tokenize", json={"prompt": TEXT}).json()["tokens"]
    answer = client.completions.create(prompt=TEXT, echo=True, logprobs=1, temperature=0, **ENDED)
    (choice,) = answer.choices
    found = choice.logprobs
    assert (choice.text, choice.finish_reason) == (TEXT, "stop")
    assert found is not None
    assert found.tokens is not None
    assert found.token_logprobs is not None
    assert len(found.tokens) == len(found.token_logprobs) == len(ids) + 1
    assert found.tokens[-1] == "<|im_end|>"
    free = client.completions.create(model="lepo", prompt=TEXT, echo=True, logprobs=1, max_tokens=0).choices[0].logprobs
    assert free is not None
    assert found.token_logprobs[:-1] == free.token_logprobs


def test_a_stream_scores_the_ending_token_too(live: Live) -> None:
    body = {"prompt": TEXT, "logprobs": 1, "stream": True, **ENDED}
    with live.http().stream("POST", "/v1/completions", json=body) as response:
        choices = [json.loads(event)["choices"][0] for event in sse(response)[:-1]]
    told = [token for choice in choices if choice["logprobs"] for token in choice["logprobs"]["tokens"]]
    assert (told, "".join(choice["text"] for choice in choices)) == (["<|im_end|>"], "")


def test_a_chat_answer_that_ends_at_once_still_has_a_token(client: OpenAI) -> None:
    """Clients read `logprobs.content[0]` of every answer."""
    answer = client.chat.completions.create(messages=[{"role": "user", "content": "2"}], logprobs=True, **ENDED)
    (choice,) = answer.choices
    assert choice.message.content == ""
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert [token.token for token in choice.logprobs.content] == ["<|im_end|>"]


def test_a_prompt_may_fill_the_context_up_to_its_answer(live: Live) -> None:
    """Latent steps that nobody asked for give way; those that somebody asked for are refused."""
    body: dict[str, Any] = {"model": "lepo", "prompt": [5] * (CONTEXT - 1), "max_tokens": 1, "temperature": 0}
    fits = live.http().post("/v1/completions", json={**body, "echo": True, "logprobs": 1})
    assert fits.status_code == 200, fits.text
    assert len(fits.json()["choices"][0]["logprobs"]["tokens"]) == CONTEXT
    assert fits.json()["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0
    some = live.http().post("/v1/completions", json={**body, "prompt": [5] * (CONTEXT - 3)}).json()
    assert some["usage"]["completion_tokens_details"]["reasoning_tokens"] == 2
    asked = live.http().post("/v1/completions", json={**body, "latent": {"length": 1}})
    assert (asked.status_code, asked.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_a_prompt_that_memory_does_not_hold_is_one_503(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    body: dict[str, Any] = {"model": "lepo", "prompt": TEXT, "max_tokens": 0, "echo": True, "logprobs": 1}
    with monkeypatch.context() as patched:
        patched.setattr(score, "score", out_of_memory)
        refused = live.http().post("/v1/completions", json=body)
    assert refused.status_code == 503
    assert "too little memory to score" in refused.json()["error"]["message"]
    assert live.http().post("/v1/completions", json=body).status_code == 200


def out_of_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
