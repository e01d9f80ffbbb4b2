"""Plain completions: every form of a prompt, and scoring the way lm-eval's `local-completions` does it."""

import json
from typing import Any

import pytest
import torch
from openai import OpenAI
from transformers import PreTrainedTokenizerFast

from app.api.answering.ask import Ask, Prompt
from app.api.answering.generation import Budget
from app.api.answering.prompts import PromptReader
from app.api.answering.token_names import TokenNames
from app.api.openai.completion_chunks import CompletionChunks
from app.api.openai.completions import CompletionBody
from app.api.openai.echo import Echo
from app.engine.request import TokenInfo
from app.identifiers import read
from app.store.grades import rewards
from app.store.interactions import get_interaction
from app.store.policy_life import serving
from tests.app.api.live import Live, sse
from training.models.policy import load_policy
from training.sampling import Sampling

TEXTS = ["What is 2 + 3", "What is 40 - 7 + 12"]


def complete(live: Live, **body: Any) -> dict[str, Any]:
    response = live.http().post("/v1/completions", json={"model": "lepo", "max_tokens": 4, "seed": 1, **body})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def ids_of(live: Live, text: str) -> list[int]:
    tokens: list[int] = live.http().post("/tokenize", json={"prompt": text}).json()["tokens"]
    return tokens


def test_four_forms_of_a_prompt_are_the_same_prompt(live: Live) -> None:
    ids = [ids_of(live, text) for text in TEXTS]
    alone = [complete(live, prompt=text)["choices"][0]["text"] for text in TEXTS]
    assert complete(live, prompt=ids[0])["choices"][0]["text"] == alone[0]
    for several in (TEXTS, ids):
        body = complete(live, prompt=several)
        assert [choice["text"] for choice in body["choices"]] == alone
        assert body["usage"]["prompt_tokens"] == len(ids[0]) + len(ids[1])


def test_prompts_of_one_request_are_never_one_group(live: Live) -> None:
    body = complete(live, prompt=TEXTS, n=2)
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    with live.store.session() as session:
        rows = [get_interaction(session, read("int", choice["interaction_id"])) for choice in body["choices"]]
    assert [row.prompt_text for row in rows] == [TEXTS[0], TEXTS[0], TEXTS[1], TEXTS[1]]
    assert rows[0].completion_id == rows[1].completion_id != rows[2].completion_id == rows[3].completion_id
    assert {row.group_size for row in rows} == {2}


def test_echoed_log_probabilities_are_the_models_own(live: Live) -> None:
    """The harness adds up `token_logprobs` of the continuation; they must be log p(token | tokens before)."""
    ids = ids_of(live, TEXTS[1])
    body = complete(live, prompt=TEXTS[1], max_tokens=1, echo=True, logprobs=3, temperature=0)
    (choice,) = body["choices"]
    with live.store.session() as session:
        row = serving(session)
        assert row is not None
    policy = load_policy(row.path, version=0, dtype=torch.float32, device="cpu")
    with torch.no_grad():
        logits_PV = policy.model(input_ids=torch.tensor([ids])).logits[0]
    logprobs_PV = logits_PV.log_softmax(-1)
    expected = [float(logprobs_PV[place, token]) for place, token in enumerate(ids[1:])]
    found = choice["logprobs"]
    assert found["token_logprobs"][0] is None
    assert found["token_logprobs"][1 : len(ids)] == pytest.approx(expected, abs=1e-4)
    assert len(found["tokens"]) == len(found["top_logprobs"]) == len(found["text_offset"]) == len(ids) + 1
    for place in range(1, len(ids)):
        best = max(found["top_logprobs"][place].values())
        assert best == pytest.approx(float(logprobs_PV[place - 1].max()), abs=1e-4)
    assert choice["text"].startswith(TEXTS[1])
    assert found["text_offset"][-1] <= len(choice["text"])


def test_a_prompt_may_be_scored_without_an_answer(live: Live) -> None:
    body = complete(live, prompt=[TEXTS[0], TEXTS[1]], max_tokens=0, echo=True, logprobs=1)
    assert [choice["text"] for choice in body["choices"]] == TEXTS
    assert body["usage"]["completion_tokens"] == 0
    whole = complete(live, prompt=TEXTS[1], max_tokens=1, echo=True, logprobs=1)["choices"][0]["logprobs"]
    alone = body["choices"][1]["logprobs"]
    assert alone["token_logprobs"] == whole["token_logprobs"][:-1]


def test_a_stream_echoes_first(live: Live) -> None:
    asked = {
        "model": "lepo",
        "prompt": TEXTS[0],
        "max_tokens": 4,
        "seed": 1,
        "stream": True,
        "echo": True,
        "logprobs": 1,
    }
    with live.http().stream("POST", "/v1/completions", json=asked) as response:
        events = [json.loads(event) for event in sse(response)[:-1]]
    text = "".join(event["choices"][0]["text"] for event in events)
    assert text == TEXTS[0] + complete(live, prompt=TEXTS[0])["choices"][0]["text"]
    assert events[0]["choices"][0]["text"] == TEXTS[0]
    offsets = [o for event in events for o in (event["choices"][0]["logprobs"] or {"text_offset": []})["text_offset"]]
    assert offsets == sorted(offsets)


def test_offsets_count_the_prompt_though_the_first_news_is_already_an_answer(
    live: Live, tokenizer: PreTrainedTokenizerFast
) -> None:
    """The engine may be quicker than the stream: its first tokens are written down before any opening is."""
    ids = ids_of(live, TEXTS[0])
    prompt = Prompt(ids=tuple(ids), text=TEXTS[0])
    ask = Ask(
        endpoint="completion",
        prompts=(prompt,),
        fields=CompletionBody(model="lepo", prompt=TEXTS[0], echo=True, logprobs=0),
        budget=Budget(Sampling(), max_new=4),
        top_logprobs=0,
        logprobs=True,
        key_id=None,
        grader_source="request",
        as_asked={},
    )
    chunks = CompletionChunks(ask, "lepo", PromptReader(tokenizer), TokenNames(tokenizer), (Echo(prompt, ()),))
    event = chunks.delta(0, "7", (TokenInfo(ids[0], -1.0),), "").removeprefix("data: ")
    assert json.loads(event)["choices"][0]["logprobs"]["text_offset"] == [len(TEXTS[0])]


def test_the_stock_client_completes(client: OpenAI) -> None:
    answer = client.completions.create(model="lepo", prompt=TEXTS, max_tokens=3, n=2, logprobs=2)
    assert len(answer.choices) == 4
    assert answer.choices[0].logprobs is not None
    stream = client.completions.create(model="lepo", prompt=TEXTS[0], max_tokens=3, stream=True)
    assert [chunk.choices[0].finish_reason for chunk in stream][-1] in {"stop", "length"}


def test_tokens_and_text_are_each_others_way_back(live: Live) -> None:
    text = "What is 12 + 30 = ä 漢"
    ids = ids_of(live, text)
    assert live.http().post("/detokenize", json={"tokens": ids}).json() == {"prompt": text}
    named = live.http().post("/tokenize", json={"prompt": text, "return_token_strs": True}).json()
    assert named["count"] == len(ids)
    assert "bytes:\\xe6" in named["token_strs"]
    info = live.http().get("/tokenizer_info").json()
    assert info["eos_token"] == "<|im_end|>"


def test_a_grade_by_a_response_of_several_prompts_needs_the_answers_own_id(live: Live) -> None:
    body = complete(live, prompt=TEXTS)
    by_response = live.http().post(f"/v1/interactions/{body['id']}/grades", json={"value": 1})
    assert by_response.status_code == 404
    own = body["choices"][1]["interaction_id"]
    assert live.http().post(f"/v1/interactions/{own}/grades", json={"value": 1}).status_code == 201
    with live.store.session() as session:
        assert rewards(session, [read("int", own)])[read("int", own)].value == 1.0
