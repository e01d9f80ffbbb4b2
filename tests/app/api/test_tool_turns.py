"""Turns that called tools are gone on from token for token, though clients send calls back and not the text they were.

What the engine says is forced by grammars; the model is random and knows no tools.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import OpenAI
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from app.identifiers import read
from app.store.interactions import get_interaction, rollout
from tests.app.api.live import ROOMY, Live, served, tiny
from tests.app.api.test_tools import ADD, ASK, SAID, TURN
from tests.app.chat.templates import QWEN, tokenizer_with
from training.codec import decode

ODD = 'So:  \n<tool_call> {"name":"add","arguments":{"b":4,  "a": 2}}</tool_call>\n'  # as no template writes it
MARKS = ["<tool_call>", "</tool_call>"]
ONE = {"parallel_tool_calls": False}
RESULT = "The sum is 11."


def said_as(text: str) -> dict[str, Any]:
    """Ask for an answer that the engine can only give in these words."""
    return {"latent": {"length": 0}, "structured_outputs": {"choice": [text]}}


def ask(live: Live, session: str, messages: list[Any], text: str, **more: Any) -> dict[str, Any]:
    asked = {"tools": [ADD, TURN], "session_id": session, "return_token_ids": True, "max_tokens": 400}
    return live.answer(messages=messages, **asked, **{**said_as(text), **more})


def after(first: dict[str, Any], **changed: Any) -> list[Any]:
    """The conversation that a client sends after an answer that calls a tool."""
    message = {**first["choices"][0]["message"], **changed}
    calls = message["tool_calls"]
    return [*ASK, message, *({"role": "tool", "tool_call_id": call["id"], "content": RESULT} for call in calls)]


def exact(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether the second prompt goes on from the first answer, token for token."""
    sampled = first["choices"][0]["token_ids"]
    drawn = [*first["prompt_token_ids"], *sampled[:-1]]
    asked: list[int] = second["prompt_token_ids"]
    return asked[: len(drawn)] == drawn


def follows(live: Live, body: dict[str, Any]) -> Any:
    with live.store.session() as session:
        return get_interaction(session, read("int", body["choices"][0]["interaction_id"])).follows_id


@contextmanager
def served_with(tokenizer: PreTrainedTokenizerFast, url: str, directory: Path) -> Iterator[Live]:
    """A server whose model writes conversations in another way."""
    config = tiny(512)
    config.max_position_embeddings = ROOMY
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        AutoModelForCausalLM.from_config(config).save_pretrained(directory / "model")
    tokenizer.model_max_length = ROOMY
    tokenizer.save_pretrained(directory / "model")
    with served(url, directory / "model", directory / "var", max_length=ROOMY, latent_length=0) as live:
        yield live


@pytest.mark.parametrize("text", [SAID, ODD], ids=["as the template", "otherwise"])
def test_a_turn_that_called_a_tool_is_gone_on_from_token_for_token(roomy: Live, text: str) -> None:
    first = ask(roomy, f"calls {text}", ASK, text)
    assert first["choices"][0]["message"]["content"] == "So:"
    before = roomy.httpd.config.app.state.server.engine.stats().prefix_hit_tokens  # type: ignore[union-attr]
    second = ask(roomy, f"calls {text}", after(first), "11")
    assert exact(first, second)
    assert follows(roomy, second) == read("int", first["choices"][0]["interaction_id"])
    stats = roomy.httpd.config.app.state.server.engine.stats()  # type: ignore[union-attr]
    assert stats.prefix_hit_tokens > before, "and the cache of its prompt is used again"
    last = [*after(first), second["choices"][0]["message"], {"role": "user", "content": "Sure?"}]
    third = ask(roomy, f"calls {text}", last, "yes")
    assert exact(second, third), "and so is the one after it"
    again = [*after(first), *after(ask(roomy, f"calls {text}", after(first), text))[1:]]
    assert len([one for one in again if one.get("tool_calls")]) == 2
    fourth = ask(roomy, f"calls {text}", again, "done")
    assert exact(first, fourth), "calls after calls"


def test_the_prompt_that_is_kept_is_the_one_that_was_seen(roomy: Live) -> None:
    first = ask(roomy, "kept", ASK, ODD)
    second = ask(roomy, "kept", after(first), "11")
    with roomy.store.session() as session:
        row = get_interaction(session, read("int", second["choices"][0]["interaction_id"]))
        assert ODD in row.prompt_text
        assert RESULT in row.prompt_text
        kept = rollout(session, row.id)
    assert kept is not None
    assert decode(kept.payload).asked_ids_P.tolist() == second["prompt_token_ids"]
    text = roomy.httpd.config.app.state.server.prompts.decode(second["prompt_token_ids"])  # type: ignore[union-attr]
    assert text == row.prompt_text


@pytest.mark.parametrize(
    "changed",
    [
        {"content": "So?"},
        {"tool_calls": [{"id": "call_1", "function": {"name": "add", "arguments": '{"b": 4, "a": 2}'}}]},
    ],
    ids=["other words", "another id"],
)
def test_another_message_than_was_given_is_rendered(roomy: Live, changed: dict[str, Any]) -> None:
    first = ask(roomy, f"changed {changed}", ASK, ODD)
    second = ask(roomy, f"changed {changed}", after(first, **changed), "11")
    assert not exact(first, second)
    assert follows(roomy, second) is None


def test_other_arguments_than_were_given_are_rendered(roomy: Live) -> None:
    first = ask(roomy, "arguments", ASK, ODD)
    (call,) = first["choices"][0]["message"]["tool_calls"]
    for arguments, same in (('{"b":4,"a":2}', True), ('{"b": 4, "a": 3}', False), ('{"b": 4, "a": true}', False)):
        other = {**call, "function": {"name": "add", "arguments": arguments}}
        second = ask(roomy, "arguments", after(first, tool_calls=[other]), "11")
        assert exact(first, second) is same, arguments


def test_an_answer_of_which_a_call_was_left_out_is_rendered(roomy: Live) -> None:
    twice = ODD + '<tool_call>{"name":"turn","arguments":{"way":"north"}}</tool_call>'
    first = ask(roomy, "left out", ASK, twice, parallel_tool_calls=False)
    assert len(first["choices"][0]["message"]["tool_calls"]) == 1
    assert not exact(first, ask(roomy, "left out", after(first), "11", parallel_tool_calls=False))


def test_another_sessions_answer_is_not_taken(roomy: Live) -> None:
    first = ask(roomy, "mine", ASK, ODD)
    assert not exact(first, ask(roomy, "yours", after(first), "11"))


def test_items_of_the_responses_api_go_on_token_for_token(roomy: Live, roomy_client: OpenAI) -> None:
    tools = [{"type": "function", **tool["function"]} for tool in (ADD, TURN)]
    named = {"session_id": "items", "return_token_ids": True}
    common: dict[str, Any] = {"model": "lepo", "tools": tools}
    first = roomy_client.responses.create(input="2+3", extra_body={**said_as(ODD), **named}, **common)
    call = next(item for item in first.output if item.type == "function_call")
    told: list[Any] = [
        {"role": "user", "content": "2+3"},
        *(item.model_dump() for item in first.output),
        {"type": "function_call_output", "call_id": call.call_id, "output": RESULT},
    ]
    second = roomy_client.responses.create(input=told, extra_body={**said_as("11"), **named}, **common)
    with roomy.store.session() as session:
        rows = [read("int", one.model_extra["interaction_id"]) for one in (first, second) if one.model_extra]
        traces = [rollout(session, one) for one in rows]
        assert get_interaction(session, rows[1]).follows_id == rows[0]
    one, two = (decode(trace.payload) for trace in traces if trace is not None)
    drawn = [*one.asked_ids_P.tolist(), *one.token_ids_T.tolist()[:-1]]
    assert two.asked_ids_P.tolist()[: len(drawn)] == drawn


MARKED = r"""start: "So: " <[{}]> "{{\"name\":\"add\",  \"arguments\":{{\"b\":4, \"a\":2}}}}" <[{}]>"""


@pytest.mark.parametrize("marks", ["letters", "special", "tokens"])
def test_where_the_template_has_a_place_for_calls(database_url: str, tmp_path: Path, marks: str) -> None:
    """Calls may be written between special tokens, or between tokens that are not special (as Qwen2.5 does)."""
    tokenizer = tokenizer_with(QWEN, *(MARKS if marks == "special" else ()))
    if marks == "tokens":
        tokenizer.add_tokens(MARKS)
    with served_with(tokenizer, database_url, tmp_path) as live:
        forced: dict[str, Any] = {}
        if marks != "letters":
            grammar = MARKED.format(*map(tokenizer.convert_tokens_to_ids, MARKS))
            forced = {"structured_outputs": {"grammar": grammar}}
        first = ask(live, "calls", ASK, ODD, **forced)
        assert first["choices"][0]["finish_reason"] == "tool_calls"
        assert exact(first, ask(live, "calls", after(first), "11"))
        required = ask(live, "required", ASK, ODD, structured_outputs=None, tool_choice="required", **ONE)
        assert required["choices"][0]["finish_reason"] == "tool_calls"
        assert exact(required, ask(live, "required", after(required), "11"))
