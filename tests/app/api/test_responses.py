"""The Responses API as the stock client uses it: whole, streamed, asynchronous; calls and results as items."""

import asyncio
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI

from app.identifiers import read
from app.store.interactions import get_interaction
from app.store.tables import Interaction
from tests.app.api.live import Live, served, wait_for
from tests.app.api.test_tools import ADD, BROKEN, SAID, TURN, TWICE

TOOLS = [{"type": "function", **tool["function"]} for tool in (ADD, TURN)]


def forced(text: str, **more: Any) -> dict[str, Any]:
    """Ask for an answer that the engine can only give in these words."""
    body = {"latent": {"length": 0}, "structured_outputs": {"choice": [text]}}
    return {"model": "lepo", "input": "2+3", "tools": TOOLS, "extra_body": body, **more}


def stored(live: Live, response: Any) -> Interaction:
    with live.store.session() as session:
        return get_interaction(session, read("int", response.model_extra["interaction_id"]))


def items(response: Any) -> list[tuple[str, str]]:
    """The output in short."""
    return [
        ("call", f"{item.name}{item.arguments}") if item.type == "function_call" else ("text", item.content[0].text)
        for item in response.output
    ]


EXPECTED = {
    SAID: [("text", "So:"), ("call", 'add{"a": 2, "b": 4}')],
    TWICE: [("text", "So:"), ("call", 'add{"a": 2, "b": 4}'), ("call", 'turn{"way": "äst"}')],
    BROKEN: [("text", BROKEN)],
    "It is 5.": [("text", "It is 5.")],
}


@pytest.mark.parametrize("text", EXPECTED, ids=["call", "calls", "broken", "words"])
def test_whole_and_streamed_are_the_same_items(roomy: Live, roomy_client: OpenAI, text: str) -> None:
    whole = roomy_client.responses.create(**forced(text))
    assert items(whole) == EXPECTED[text]
    assert (whole.status, whole.error, whole.incomplete_details) == ("completed", None, None)
    assert whole.id.startswith("resp_")
    row = stored(roomy, whole)
    assert (row.completion_id, row.endpoint, row.answer) == (whole.id, "response", text)
    events = list(roomy_client.responses.create(**forced(text), stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.completed"
    assert items(last.response) == EXPECTED[text]
    assert last.response.usage == whole.usage
    assert stored(roomy, last.response).answer == text


def test_events_come_in_order(roomy_client: OpenAI) -> None:
    events = list(roomy_client.responses.create(**forced(TWICE), stream=True))
    kinds = [event.type for event in events]
    squeezed = [kinds[0], *(after for before, after in pairwise(kinds) if after != before)]
    call = [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]
    assert squeezed == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        *call,
        *call,
        "response.completed",
    ]
    assert events[0].response.status == "in_progress"
    parts = [event for event in events if event.type == "response.function_call_arguments.done"]
    added = [event.item for event in events if event.type == "response.output_item.added"]
    assert [item.type for item in added] == ["message", "function_call", "function_call"]
    assert [event.item_id for event in parts] == [item.id for item in added[1:]]


def test_the_stock_streaming_helper_puts_it_together(roomy_client: OpenAI) -> None:
    with roomy_client.responses.stream(**forced(SAID)) as stream:
        seen = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert (seen, items(final)) == ("So:", EXPECTED[SAID])


def test_the_asynchronous_client(roomy: Live) -> None:
    async def ask() -> tuple[str, str]:
        async with AsyncOpenAI(base_url=f"{roomy.url}/v1", api_key=roomy.keys["both"]) as client:
            whole = await client.responses.create(**forced("It is 5."))
            stream = await client.responses.create(**forced("It is 5."), stream=True)
            parts = [event.delta async for event in stream if event.type == "response.output_text.delta"]
            return whole.output_text, "".join(parts)

    assert asyncio.run(ask()) == ("It is 5.", "It is 5.")


def test_a_loop_of_items_goes_round(roomy: Live, roomy_client: OpenAI) -> None:
    first = roomy_client.responses.create(**forced(TWICE))
    conversation: list[Any] = [
        {"role": "user", "content": [{"type": "input_text", "text": "2+3"}]},
        *(item.model_dump() for item in first.output),
        *(
            {"type": "function_call_output", "call_id": item.call_id, "output": f"result {place}"}
            for place, item in enumerate(first.output)
            if item.type == "function_call"
        ),
        {"type": "reasoning", "id": "rs_1", "summary": []},
    ]
    asked = forced("It is 6.", input=conversation, instructions="be brief")
    last = roomy_client.responses.create(**asked)
    assert last.output_text == "It is 6."
    assert last.instructions == "be brief"
    row = stored(roomy, last)
    for words in ("be brief", "Adds two numbers.", '"way": "äst"', "result 1", "result 2", "So:"):
        assert words in row.prompt_text
    roles = [message["role"] for message in row.request["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "tool"]
    assert [tool["function"]["name"] for tool in row.request["tools"]] == ["add", "turn"]
    assert "input" not in row.request


def test_a_required_call_and_a_form(roomy_client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "lepo", "input": "2+3", "tools": TOOLS, "parallel_tool_calls": False}
    choices: list[Any] = ["required", {"type": "function", "name": "turn"}]
    for choice in choices:
        (item,) = roomy_client.responses.create(**asked, tool_choice=choice).output
        assert item.type == "function_call"
        assert choice == "required" or item.name == "turn"
        assert set(json.loads(item.arguments)) in ({"a", "b"}, {"way"})
    schema = {"type": "object", "properties": {"w": {"enum": [1, 2]}}, "required": ["w"], "additionalProperties": False}
    form = {"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}}
    written = roomy_client.responses.create(model="lepo", input="2+3", text=form)  # type: ignore[call-overload]
    assert json.loads(written.output_text)["w"] in {1, 2}
    assert written.text.format.type == "json_schema"


def test_an_answer_cut_by_its_budget_is_incomplete(roomy_client: OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "lepo",
        "input": "2+3",
        "max_output_tokens": 5,
        "extra_body": {"ignore_eos": True},
    }
    whole = roomy_client.responses.create(**asked)
    assert whole.status == "incomplete"
    assert whole.incomplete_details is not None
    assert whole.incomplete_details.reason == "max_output_tokens"
    assert whole.usage is not None
    assert (whole.usage.output_tokens, whole.usage.output_tokens_details.reasoning_tokens) == (5, 2)
    assert whole.usage.total_tokens == whole.usage.input_tokens + 5
    (item,) = whole.output
    assert item.status == "incomplete"
    assert list(roomy_client.responses.create(**asked, stream=True))[-1].type == "response.incomplete"


def test_a_grade_by_the_responses_id_counts(roomy: Live, roomy_client: OpenAI) -> None:
    answer = roomy_client.responses.create(**forced("It is 5.", metadata={"task": "sum"}, user="ada", store=True))
    graded = roomy.http().post(f"/v1/interactions/{answer.id}/grades", json={"value": 1})
    assert graded.status_code == 201, graded.text
    row = stored(roomy, answer)
    assert (row.reward, row.user_tag, row.client_metadata) == (1.0, "ada", {"task": "sum"})
    assert answer.metadata == {"task": "sum"}


def test_what_clients_send_by_default_changes_nothing(roomy_client: OpenAI) -> None:
    more: dict[str, Any] = {
        "store": False,
        "truncation": "disabled",
        "include": ["reasoning.encrypted_content"],
        "reasoning": {"effort": None, "summary": "auto"},
        "tools": [*TOOLS, {"type": "web_search"}],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "previous_response_id": None,
    }
    assert roomy_client.responses.create(**forced("It is 5.", **more)).output_text == "It is 5."


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"extra_body": {"max_tokens": 5}}, "max_tokens"),
        ({"extra_body": {"n": 2}}, "n"),
        ({"input": []}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "5"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "add"}]}, "input[0].arguments"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format"),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"$ref": "#/nowhere"}}}},
            "text.format.schema",
        ),
        ({"input": "1" * 4000}, "input"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_cannot_be_is_told(roomy_client: OpenAI, change: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        roomy_client.responses.create(**{"model": "lepo", "input": "2", "max_output_tokens": 9, **change})
    assert caught.value.param == param


def test_an_engine_that_fails_inside_of_a_streamed_response_is_told_in_it(
    database_url: str, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream ends with `response.failed`, of which the stock client knows; what was said before it stands."""
    with served(database_url, model_dir, tmp_path, latent_length=0) as live:
        step = live.engine._lanes.serving.step
        steps: list[int] = []

        def failing(*args: Any, **named: Any) -> Any:
            steps.append(1)
            if len(steps) > 6:
                raise RuntimeError("the accelerator fell off")
            return step(*args, **named)

        monkeypatch.setattr(live.engine._lanes.serving, "step", failing)
        with OpenAI(base_url=f"{live.url}/v1", api_key=live.keys["both"], max_retries=0) as client:
            body = {"ignore_eos": True, "min_tokens": 60}
            events = list(client.responses.create(model="lepo", input="2+3", stream=True, extra_body=body))
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert any(event.type == "response.output_text.delta" for event in events)
        last = events[-1]
        assert last.type == "response.failed"
        assert (last.response.status, last.response.usage) == ("failed", None)
        assert last.response.error is not None
        assert last.response.error.code == "server_error"
        assert "accelerator" not in last.response.model_dump_json()
        assert "response.completed" not in {event.type for event in events}
        wait_for(lambda: live.httpd.failure is not None)
