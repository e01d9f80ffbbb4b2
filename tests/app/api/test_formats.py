"""What an answer's text must be, asked for as clients ask, and the sampling fields that they send."""

import gzip
import json
import re
import threading
import time
from typing import Any

import httpx
import pytest
import torch
from openai import OpenAI
from tokenizers.processors import TemplateProcessing

from app.api.answering.answers import Stored
from app.api.answering.prompts import PromptReader
from app.api.answering.template_fields import template_settings
from app.api.openai.completions import CompletionBody, read_prompts
from app.engine.request import Finished, FinishReason
from app.errors import BadRequest
from app.identifiers import read
from app.store.interactions import rollout
from app.store.tables import Interaction
from tests.app.api.live import Live
from training.allowed import drawn_as_allowed
from training.codec import decode
from training.demo_model.tokenizer import build_tokenizer
from training.rollout import Rollout
from training.sampling import Sampling

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "blue"]},
        "sizes": {"type": "array", "items": {"enum": [1, 2]}, "maxItems": 3},
    },
    "required": ["colour", "sizes"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}
LONG = {"max_tokens": 200, "latent": {"length": 2}}
HOSTILE = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(1500)}}


def row(live: Live, choice: dict[str, Any]) -> Interaction:
    with live.store.session() as session:
        found = session.get(Interaction, read("int", choice["interaction_id"]))
        assert found is not None
        return found


def valid(text: str) -> bool:
    thing = json.loads(text)
    return set(thing) == {"colour", "sizes"} and thing["colour"] in SCHEMA["properties"]["colour"]["enum"]


def test_a_schema_is_kept_to_and_the_answer_can_be_learned_from(live: Live) -> None:
    body = live.answer(response_format=FORMAT, n=4, **LONG)
    for choice in body["choices"]:
        assert choice["finish_reason"] == "stop"
        assert valid(choice["message"]["content"])
        stored = row(live, choice)
        assert stored.learnable
        assert stored.request["response_format"] == FORMAT
        with live.store.session() as session:
            kept = rollout(session, stored.id)
            assert kept is not None
        trace = decode(kept.payload)
        assert drawn_as_allowed(trace)
        assert len(trace.masks_MQ) > 3


def test_the_stock_client_parses_what_it_asked_for_streamed_too(client: OpenAI) -> None:
    asked = {"model": "lepo", "messages": [{"role": "user", "content": "One"}], "response_format": FORMAT}
    whole = client.chat.completions.create(**asked, max_tokens=200)  # type: ignore[call-overload]
    assert valid(whole.choices[0].message.content)
    stream = client.chat.completions.create(**asked, max_tokens=200, stream=True)  # type: ignore[call-overload]
    assert valid("".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices))


@pytest.mark.parametrize(
    ("outputs", "pattern"),
    [
        ({"regex": "[ab]{2,4}"}, "[ab]{2,4}"),
        ({"choice": ["yes", 'no "way"']}, 'yes|no "way"'),
        ({"grammar": 'start: "x" y\ny: "1" | "2" y'}, "x2*1"),
        ({"json": {"enum": ["a", 5]}}, '"a"|5'),
        ({"json": '{"enum": ["a", 5]}'}, '"a"|5'),
    ],
)
def test_each_of_vllms_ways_is_kept_to(live: Live, outputs: dict[str, Any], pattern: str) -> None:
    for choice in live.answer(structured_outputs=outputs, n=4, **LONG)["choices"]:
        assert re.fullmatch(pattern, choice["message"]["content"]), choice


def test_any_object_is_an_object(live: Live) -> None:
    for choice in live.answer(response_format={"type": "json_object"}, n=4, max_tokens=100)["choices"]:
        assert choice["message"]["content"].startswith("{")
        if choice["finish_reason"] == "stop":
            assert isinstance(json.loads(choice["message"]["content"]), dict)


def test_plain_completions_take_them_too(live: Live) -> None:
    asked = {"model": "lepo", "prompt": "One", "max_tokens": 50, "structured_outputs": {"choice": ["left", "right"]}}
    assert live.http().post("/v1/completions", json=asked).json()["choices"][0]["text"] in {"left", "right"}


def schema(value: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}}


BAD: list[tuple[dict[str, Any], str, str]] = [
    (schema({"type": "object", "properties": {"a": {"not": {}}}}), "response_format.json_schema.schema", "not"),
    (schema({"type": "array", "uniqueItems": True}), "response_format.json_schema.schema", "uniqueItems"),
    (schema({"$ref": "http://127.0.0.1/x"}), "response_format.json_schema.schema", "retriev"),
    (schema({"enum": list(range(5000))}), "response_format.json_schema.schema", "parts"),
    (schema({"enum": ["x" * 70_000]}), "response_format.json_schema.schema", "shorten"),
    ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema"),
    ({"response_format": {"type": "grammar"}}, "response_format.type", "json_object"),
    ({"response_format": FORMAT, "structured_outputs": {"regex": "a"}}, "structured_outputs", "not both"),
    ({"structured_outputs": {}}, "structured_outputs", "one of"),
    ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "one of"),
    ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex", "group"),
    ({"structured_outputs": {"grammar": "start: nothing"}}, "structured_outputs.grammar", "nothing"),
    ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", "not JSON"),
    ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag", ""),
    ({"guided_json": {}}, "guided_json", "structured_outputs.json"),
    ({"guided_regex": "a"}, "guided_regex", "structured_outputs.regex"),
    ({"response_format": FORMAT, "min_tokens": 1}, "min_tokens", "ends"),
    ({"response_format": FORMAT, "ignore_eos": True}, "ignore_eos", "ends"),
    ({"top_k": -2}, "top_k", "-1"),
    ({"min_p": 1.5}, "min_p", "1"),
    ({"repetition_penalty": 0}, "repetition_penalty", "0"),
    ({"frequency_penalty": 3}, "frequency_penalty", "2"),
    ({"chat_template_kwargs": {"enable_thinking": True}}, "chat_template_kwargs", "enable_thinking"),
    ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs", "leave it out"),
    ({"chat_template_kwargs": {"bos_token": "x"}}, "chat_template_kwargs", "leave it out"),
    ({"continue_final_message": True}, "continue_final_message", "assistant"),
    ({"add_special_tokens": True}, "add_special_tokens", "leave it out"),
    ({"echo": True}, "echo", "leave it out"),
]


@pytest.mark.parametrize(("change", "param", "says"), BAD, ids=lambda value: str(value)[:40])
def test_what_cannot_be_served_is_a_400_that_names_the_field(
    live: Live, change: dict[str, Any], param: str, says: str
) -> None:
    response = live.chat(max_tokens=4, **change)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert says in error["message"]


def test_fields_that_change_nothing_are_taken(live: Live) -> None:
    harmless: dict[str, Any] = {
        "min_p": 0,
        "repetition_penalty": 1,
        "add_generation_prompt": True,
        "add_special_tokens": False,
        "continue_final_message": False,
        "chat_template_kwargs": {},
        "echo": False,
        "prompt_cache_key": "a",
        "prompt_cache_retention": "24h",
        "guided_json": None,
        "response_format": None,
    }
    plain = live.answer(max_tokens=6)["choices"][0]["message"]
    assert live.answer(max_tokens=6, **harmless)["choices"][0]["message"] == plain
    asked: dict[str, Any] = {"max_tokens": 3, "stream": True, "stream_options": {"include_usage": None}}
    assert live.chat(**asked).status_code == 200


@pytest.mark.parametrize("top_k", [0, -1])
def test_top_k_can_be_off(live: Live, top_k: int) -> None:
    choice = live.answer(top_k=top_k, max_tokens=2)["choices"][0]
    with live.store.session() as session:
        kept = rollout(session, row(live, choice).id)
    assert kept is not None
    assert decode(kept.payload).sampling.top_k == live.settings.max_top_k


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty", "repetition_penalty"])
def test_penalties_are_served_and_not_learned_from(live: Live, name: str) -> None:
    """At temperature 0 this model repeats itself; with a penalty it must not, so that the words are others."""
    asked = {"temperature": 0, "max_tokens": 12, "latent": {"length": 0}}
    plain, bent = live.answer(**asked)["choices"][0], live.answer(**asked, **{name: 2})["choices"][0]
    assert row(live, bent).unlearnable_reason == "altered"
    assert row(live, plain).unlearnable_reason is None
    assert plain["message"]["content"] != bent["message"]["content"]


def test_min_p_narrows_what_may_be_drawn_and_is_learned_from(live: Live) -> None:
    asked = {"temperature": 2, "max_tokens": 12, "latent": {"length": 0}, "n": 8}
    narrow = live.answer(**asked, min_p=1)["choices"]
    assert len({choice["message"]["content"] for choice in narrow}) == 1
    assert len({choice["message"]["content"] for choice in live.answer(**asked)["choices"]}) == 8
    assert row(live, narrow[0]).learnable


def test_the_last_message_can_be_gone_on_with(live: Live) -> None:
    said = [{"role": "user", "content": "What is 2 + 3"}, {"role": "assistant", "content": "2 + 3 ="}]
    choice = live.answer(messages=said, continue_final_message=True)["choices"][0]
    assert row(live, choice).prompt_text.endswith("assistant\n2 + 3 =")
    bare = live.answer(messages=said[:1], add_generation_prompt=False)["choices"][0]
    assert row(live, bare).prompt_text.endswith("<|im_end|>\n")


@pytest.mark.parametrize(("asked", "expected"), [(None, 1), (True, 1), (False, 0)])
def test_a_text_can_be_read_without_the_tokens_put_around_it(asked: bool | None, expected: int) -> None:
    tokenizer = build_tokenizer(256)
    bos = str(tokenizer.bos_token)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    body = CompletionBody.model_validate({"model": "lepo", "prompt": "2 + 3", "add_special_tokens": asked})
    (prompt,) = read_prompts(PromptReader(tokenizer), body)
    assert prompt.ids.count(tokenizer.bos_token_id) == expected


def test_a_compressed_body_is_refused_with_the_reason(live: Live) -> None:
    packed = gzip.compress(json.dumps({"model": "lepo", "messages": []}).encode())
    response = live.http().post("/v1/chat/completions", content=packed, headers={"Content-Encoding": "gzip"})
    assert response.status_code == 415
    assert "gzip" in response.json()["error"]["message"]
    assert "size" in response.json()["error"]["message"]


def test_variables_are_those_that_the_template_reads() -> None:
    tokenizer = build_tokenizer(256)
    tokenizer.chat_template = str(tokenizer.chat_template) + "{% if not enable_thinking %}no{% endif %}"
    assert template_settings(tokenizer, {"enable_thinking": True}) == {"enable_thinking": True}
    with pytest.raises(BadRequest, match="reads no variable"):
        template_settings(tokenizer, {"enable": True})


def test_a_large_schema_holds_up_nobody(live: Live) -> None:
    """While it is compiled and refused or served, others are answered."""
    stop = threading.Event()
    waits: list[float] = []

    def look() -> None:
        with httpx.Client(base_url=live.url) as other:
            while not stop.is_set():
                began = time.monotonic()
                assert other.get("/health").status_code == 200
                waits.append(time.monotonic() - began)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        response = live.chat(max_tokens=8, **schema(HOSTILE))
    finally:
        stop.set()
        looking.join()
    assert response.status_code in {200, 400}
    assert max(waits) < 2.0
    assert live.answer()["choices"]


@pytest.mark.parametrize(("reason", "shown"), [("stop", "stop"), ("length", "length"), ("deadline", "abort")])
def test_a_deadline_is_no_length(reason: FinishReason, shown: str) -> None:
    trace = sample_of(reason)
    stored = Stored(0, Finished(0, "a", reason, trace, ((0, 0),), 0.0, None), "int_1")
    assert stored.shown_reason == shown
    assert stored.extra.get("stop_reason") == (reason if shown == "abort" else None)


def sample_of(reason: FinishReason) -> Rollout:
    none = torch.empty(0)
    return Rollout(
        none.int(), none.view(0, 0).int(), none.view(0, 0), none.view(0, 0), none, none.int(), none, none,
        Sampling(), 0, reason,
    )  # fmt: skip
