"""Tools in chat as the stock client uses them. What the engine says is forced by grammars: the model knows no tools."""

import json
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from app.identifiers import read
from app.store.interactions import get_interaction, rollout
from tests.app.api.contract import require_described
from tests.app.api.live import ROOMY, Live, served
from training.codec import decode

ADD: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"enum": [1, 2, 3]}, "b": {"enum": [4, 5]}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}
TURN: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "turn",
        "parameters": {
            "$defs": {"way": {"enum": ["north", "south"]}},
            "type": "object",
            "properties": {"way": {"$ref": "#/$defs/way"}},
            "required": ["way"],
            "additionalProperties": False,
        },
    },
}
ASK: list[Any] = [{"role": "user", "content": "2+3"}]
SAID = 'So: \n<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 4}}\n</tool_call>'
TWICE = SAID + '\n<tool_call>\n{"name": "turn", "arguments": {"way": "äst"}}\n</tool_call>\n'
BROKEN = '<tool_call>\n{"name": "add", "arguments": {"a": 2\n</tool_call>'


def forced(text: str, **more: Any) -> dict[str, Any]:
    """Ask for an answer that the engine can only give in these words."""
    body = {"latent": {"length": 0}, "structured_outputs": {"choice": [text]}}
    return {"model": "lepo", "messages": ASK, "tools": [ADD, TURN], "max_tokens": 400, "extra_body": body, **more}


def stored_answer(live: Live, choice: Any) -> str:
    with live.store.session() as session:
        return get_interaction(session, read("int", choice.model_extra["interaction_id"])).answer


def streamed(client: OpenAI, **asked: Any) -> tuple[str, list[dict[str, str]], str | None]:
    """Gather a stream as clients do: calls by their index, arguments joined."""
    content, calls, finish = "", {}, None
    for chunk in client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            content += choice.delta.content or ""
            for part in choice.delta.tool_calls or ():
                assert part.function is not None
                if part.index not in calls:
                    assert part.id
                    assert part.type == "function"
                    assert part.function.name
                    calls[part.index] = {"id": part.id, "name": part.function.name, "arguments": ""}
                calls[part.index]["arguments"] += part.function.arguments or ""
            finish = choice.finish_reason or finish
    assert list(calls) == list(range(len(calls)))
    return content, list(calls.values()), finish


def shown(choice: Any) -> tuple[str, list[dict[str, str]], str]:
    calls = [
        {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
        for call in choice.message.tool_calls or ()
    ]
    return choice.message.content or "", calls, choice.finish_reason


@pytest.mark.parametrize("text", [SAID, TWICE, BROKEN, "No tool helps."], ids=["one", "two", "broken", "words"])
def test_calls_are_shown_whole_as_streamed_and_kept_as_they_were_said(
    roomy: Live, roomy_client: OpenAI, text: str
) -> None:
    whole = roomy_client.chat.completions.create(**forced(text)).choices[0]
    content, calls, finish = shown(whole)
    names = {SAID: ["add"], TWICE: ["add", "turn"]}.get(text, [])
    assert [call["name"] for call in calls] == names
    assert finish == ("tool_calls" if names else "stop")
    assert content == ("So:" if names else text)
    assert stored_answer(roomy, whole) == text
    again = streamed(roomy_client, **forced(text))
    assert (again[0], [{**call, "id": ""} for call in again[1]], again[2]) == (
        content,
        [{**call, "id": ""} for call in calls],
        finish,
    )
    for call in calls:
        assert call["id"].startswith("call_")
        assert json.loads(call["arguments"]) in ({"a": 2, "b": 4}, {"way": "äst"})


def test_an_answer_that_is_only_calls_has_no_content(roomy_client: OpenAI) -> None:
    message = roomy_client.chat.completions.create(**forced(SAID.removeprefix("So: \n"))).choices[0].message
    assert message.content is None
    assert message.tool_calls is not None


def test_one_call_where_only_one_is_wanted(roomy_client: OpenAI) -> None:
    _, calls, finish = streamed(roomy_client, **forced(TWICE, parallel_tool_calls=False))
    assert ([call["name"] for call in calls], finish) == (["add"], "tool_calls")


def test_no_call_is_read_where_none_may_be_made(roomy_client: OpenAI) -> None:
    for asked in (forced(SAID, tool_choice="none"), forced(SAID, tools=[TURN])):
        assert shown(roomy_client.chat.completions.create(**asked).choices[0]) == (SAID, [], "stop")


def test_log_probabilities_of_calls_are_those_of_their_tokens(roomy_client: OpenAI) -> None:
    whole = roomy_client.chat.completions.create(**forced(SAID, logprobs=True)).choices[0]
    assert whole.logprobs is not None
    drawn = [token.token for token in whole.logprobs.content or ()]
    assert "".join(drawn).startswith("So: \n<tool_call>")
    again: list[str] = []
    for chunk in roomy_client.chat.completions.create(**forced(SAID, logprobs=True), stream=True):
        for choice in chunk.choices:
            again += [] if choice.logprobs is None else [token.token for token in choice.logprobs.content or ()]
    assert again == drawn


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("choice", ["required", "named"])
def test_a_required_call_is_one_by_its_schema_and_is_learned_from(
    roomy: Live, roomy_client: OpenAI, choice: str, seed: int
) -> None:
    wanted = {"type": "function", "function": {"name": "turn"}} if choice == "named" else choice
    asked: dict[str, Any] = {
        "model": "lepo",
        "messages": ASK,
        "tools": [ADD, TURN],
        "tool_choice": wanted,
        "seed": seed,
    }
    asked |= {"max_tokens": 200, "parallel_tool_calls": False}
    answer = roomy_client.chat.completions.create(**asked).choices[0]
    content, calls, finish = shown(answer)
    assert (content, len(calls), finish) == ("", 1, "tool_calls")
    arguments = json.loads(calls[0]["arguments"])
    if calls[0]["name"] == "turn":
        assert arguments["way"] in {"north", "south"}
    else:
        assert (arguments["a"] in {1, 2, 3}, arguments["b"] in {4, 5}) == (True, True)
    assert choice == "required" or calls[0]["name"] == "turn"
    with roomy.store.session() as session:
        row = get_interaction(session, read("int", (answer.model_extra or {})["interaction_id"]))
        kept = rollout(session, row.id)
    assert row.learnable
    assert kept is not None
    assert decode(kept.payload).latent_length == 2


def test_several_calls_may_be_required(roomy_client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "lepo", "messages": ASK, "tools": [TURN], "tool_choice": "required"}
    counts = [
        len(shown(choice)[1])
        for choice in roomy_client.chat.completions.create(**asked, n=8, max_tokens=400, seed=3).choices
    ]
    assert max(counts) > 1


OPEN_TURN = {
    "type": "function",
    "function": {
        "name": "turn",
        "parameters": {"properties": {"way": {"enum": ["north", "south"]}}, "required": ["way"]},
    },
}
FORMAT: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "sum",
        "schema": {"type": "object", "properties": {"sum": {"enum": [5, 6]}}, "required": ["sum"]},
    },
}


def test_arguments_that_no_schema_names_are_not_made_up(roomy_client: OpenAI) -> None:
    """Clients leave `additionalProperties` out (instructor) or strip it (litellm): these names are all there are."""
    asked: dict[str, Any] = {"model": "lepo", "messages": ASK, "tools": [OPEN_TURN], "tool_choice": "required"}
    for choice in roomy_client.chat.completions.create(
        **asked, n=8, max_tokens=200, parallel_tool_calls=False, seed=3
    ).choices:
        (call,) = shown(choice)[1]
        assert json.loads(call["arguments"]).keys() == {"way"}


def test_a_required_call_leaves_nothing_for_a_format_to_form(roomy_client: OpenAI) -> None:
    """instructor sends both."""
    asked: dict[str, Any] = {"model": "lepo", "messages": ASK, "tools": [OPEN_TURN], "tool_choice": "required"}
    choice = roomy_client.chat.completions.create(
        **asked, response_format=FORMAT, max_tokens=200, parallel_tool_calls=False
    ).choices[0]
    content, calls, finish = shown(choice)
    assert (content, [call["name"] for call in calls], finish) == ("", ["turn"], "tool_calls")


def test_beside_a_format_tools_may_still_be_called(roomy: Live, roomy_client: OpenAI) -> None:
    """An agent with tools and an output type sends both at every turn: it calls, or says the last word in that form."""
    asked: dict[str, Any] = {"model": "lepo", "messages": ASK, "tools": [OPEN_TURN], "response_format": FORMAT}
    asked["parallel_tool_calls"] = False
    choices = roomy_client.chat.completions.create(**asked, n=24, max_tokens=200, seed=1).choices
    calling = [choice for choice in choices if choice.message.tool_calls]
    speaking = [choice for choice in choices if not choice.message.tool_calls]
    assert calling
    assert speaking
    for choice in calling:
        assert choice.message.content is None
        assert {call["name"] for call in shown(choice)[1]} == {"turn"}
    for choice in speaking:
        assert json.loads(choice.message.content or "")["sum"] in {5, 6}
    no_calls = roomy_client.chat.completions.create(**asked, tool_choice="none", n=8, max_tokens=200).choices
    assert all(json.loads(choice.message.content or "")["sum"] in {5, 6} for choice in no_calls)


def test_a_loop_of_tools_goes_round(roomy: Live, roomy_client: OpenAI) -> None:
    first = roomy_client.chat.completions.create(**forced(TWICE)).choices[0].message
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": f"result {place}"}
        for place, call in enumerate(first.tool_calls or ())
    ]
    asked = forced("It is 6.", messages=[*ASK, first.model_dump(exclude_none=True), *results])
    last = roomy_client.chat.completions.create(**asked).choices[0]
    assert last.message.content == "It is 6."
    with roomy.store.session() as session:
        row = get_interaction(session, read("int", (last.model_extra or {})["interaction_id"]))
    for words in ("Adds two numbers.", '"way": "äst"', "result 0", "result 1", "So:"):
        assert words in row.prompt_text
    assert row.request["tools"][0]["function"]["name"] == "add"
    assert row.request["messages"][1]["tool_calls"][0]["function"]["name"] == "add"


CALLED = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "sometimes", "tools": [ADD]}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "sub"}}, "tools": [ADD]}, "tool_choice"),
        (
            {"tool_choice": "required", "tools": [ADD], "extra_body": {"structured_outputs": {"regex": "a"}}},
            "tool_choice",
        ),
        ({"tools": [ADD, ADD]}, "tools"),
        ({"tools": [ADD] * 129}, "tools"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"functions": [{"name": "add"}]}, "functions"),
        ({"function_call": {"name": "add"}}, "function_call"),
        ({"messages": [*ASK, {"role": "tool", "tool_call_id": "call_1", "content": "5"}]}, "messages[1].tool_call_id"),
        ({"messages": [*ASK, {"role": "tool", "content": "5"}]}, "messages[1].tool_call_id"),
        (
            {"messages": [*ASK, {"role": "assistant", "tool_calls": [{**CALLED, "function": {"name": "add"}}]}]},
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            {
                "messages": [
                    *ASK,
                    {
                        "role": "assistant",
                        "tool_calls": [{**CALLED, "function": {"name": "add", "arguments": '{"a": "\\u0000"}'}}],
                    },
                ]
            },
            "messages[1].tool_calls[0].function.arguments",
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_cannot_be_is_told(roomy_client: OpenAI, change: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        roomy_client.chat.completions.create(**{"model": "lepo", "messages": ASK, "max_tokens": 5, **change})
    assert caught.value.param == param


def test_a_schema_that_cannot_be_followed_is_told(roomy_client: OpenAI) -> None:
    odd = {"type": "function", "function": {"name": "odd", "parameters": {"properties": {"a": {"$ref": "#/nowhere"}}}}}
    asked: dict[str, Any] = {"model": "lepo", "messages": ASK, "tools": [odd], "tool_choice": "required"}
    with pytest.raises(BadRequestError, match="tool_choice"):
        roomy_client.chat.completions.create(**asked)


@pytest.mark.parametrize(("parser", "called"), [("llama3", True), ("none", False)])
def test_the_parser_is_a_setting(database_url: str, roomy_dir: Path, tmp_path: Path, parser: str, called: bool) -> None:
    text = '{"name": "turn", "parameters": {"way": "north"}}'
    with (
        served(database_url, roomy_dir, tmp_path, max_length=ROOMY, tool_parser=parser) as live,
        OpenAI(base_url=f"{live.url}/v1", api_key=live.keys["both"]) as client,
    ):
        choice = client.chat.completions.create(**forced(text)).choices[0]
        assert bool(choice.message.tool_calls) == called
        assert (choice.message.content or "") == ("" if called else text)
        if not called:
            with pytest.raises(BadRequestError, match="LEPO_TOOL_PARSER"):
                client.chat.completions.create(**forced(text, tool_choice="required", extra_body={}))


@pytest.mark.parametrize("stream", [False, True])
def test_calls_are_sent_as_the_document_says(roomy: Live, stream: bool) -> None:
    said = {"latent": {"length": 0}, "structured_outputs": {"choice": [TWICE]}, "model": "lepo", "stream": stream}
    flat = [{"type": "function", **one["function"]} for one in (ADD, TURN)]
    for path, asked in (
        ("/v1/chat/completions", {"messages": ASK, "tools": [ADD, TURN], "max_tokens": 400}),
        ("/v1/responses", {"input": "2+3", "tools": flat, "max_output_tokens": 400}),
    ):
        response = roomy.http().post(path, json={**said, **asked})
        assert response.status_code == 200, response.text
        assert "add" in response.text.split('"arguments"')[0].rsplit("name", 1)[-1], "a call was read"
        require_described(response)
