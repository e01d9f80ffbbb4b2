"""openai: the stock client, sync and async, over its three APIs."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from tests.clients.programs.place import ASKED, MODEL, QUESTION, TURN, Boat, Place

PACKAGE = "openai"
CHAT: dict[str, Any] = {"model": MODEL, "messages": ASKED, "max_tokens": 20, "seed": 1}
TEXT: dict[str, Any] = {"model": MODEL, "prompt": QUESTION, "max_tokens": 20, "seed": 1}
ITEMS: dict[str, Any] = {"model": MODEL, "input": QUESTION, "max_output_tokens": 20, "extra_body": {"seed": 1}}
FLAT_TURN = {"type": "function", **TURN["function"]}
ROOMY = 300  # tokens of an answer


def stock(place: Place) -> Any:
    from openai import OpenAI

    return OpenAI(base_url=place.v1, api_key=place.key, max_retries=0)


def at_once(place: Place, ask: Callable[[Any], Awaitable[str]]) -> str:
    """Ask by the asynchronous client."""
    from openai import AsyncOpenAI

    async def asked() -> str:
        async with AsyncOpenAI(base_url=place.v1, api_key=place.key, max_retries=0) as client:
            return await ask(client)

    return asyncio.run(asked())


def chat(place: Place) -> None:
    async def asked(client: Any) -> str:
        return str((await client.chat.completions.create(**CHAT)).choices[0].message.content)

    async def streamed(client: Any) -> str:
        stream = await client.chat.completions.create(**CHAT, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    with stock(place) as client:
        answer = client.chat.completions.create(**CHAT)
        whole = answer.choices[0].message.content
        chunks = client.chat.completions.create(**CHAT, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    assert whole
    assert at_once(place, asked) == at_once(place, streamed) == whole
    place.grade(answer.choices[0].interaction_id)


def completions(place: Place) -> None:
    async def asked(client: Any) -> str:
        return str((await client.completions.create(**TEXT)).choices[0].text)

    async def streamed(client: Any) -> str:
        return "".join([chunk.choices[0].text async for chunk in await client.completions.create(**TEXT, stream=True)])

    with stock(place) as client:
        whole = client.completions.create(**TEXT).choices[0].text
        assert "".join(chunk.choices[0].text for chunk in client.completions.create(**TEXT, stream=True)) == whole
    assert whole
    assert at_once(place, asked) == at_once(place, streamed) == whole


def responses(place: Place) -> None:
    async def asked(client: Any) -> str:
        return str((await client.responses.create(**ITEMS)).output_text)

    async def streamed(client: Any) -> str:
        events = await client.responses.create(**ITEMS, stream=True)
        return "".join([event.delta async for event in events if event.type == "response.output_text.delta"])

    with stock(place) as client:
        answer = client.responses.create(**ITEMS)
        with client.responses.stream(**ITEMS) as events:
            told = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert answer.output_text
    assert at_once(place, asked) == at_once(place, streamed) == told == answer.output_text
    place.grade(answer.id)


def tools(place: Place) -> None:
    with stock(place) as client:
        wanted = {"tool_choice": "required", "parallel_tool_calls": False}
        asked = {**CHAT, "max_tokens": ROOMY, "tools": [TURN]}
        message = client.chat.completions.create(**asked, **wanted).choices[0].message
        (call,) = message.tool_calls
        result = {"role": "tool", "tool_call_id": call.id, "content": "heading north"}
        last = client.chat.completions.create(**{**asked, "messages": [*ASKED, message, result]}, tool_choice="none")
        assert not last.choices[0].message.tool_calls
        items = {**ITEMS, "max_output_tokens": ROOMY, "tools": [FLAT_TURN]}
        (called,) = client.responses.create(**items, **wanted).output
        assert (called.type, called.name) == ("function_call", "turn")
        told = {"type": "function_call_output", "call_id": called.call_id, "output": "heading north"}
        whole = [{"role": "user", "content": QUESTION}, called, told]
        assert client.responses.create(**{**items, "input": whole}, tool_choice="none").output_text


def parsed(place: Place) -> None:
    with stock(place) as client:
        asked = {**CHAT, "max_tokens": ROOMY}
        assert isinstance(client.chat.completions.parse(**asked, response_format=Boat).choices[0].message.parsed, Boat)
        with client.chat.completions.stream(**asked, response_format=Boat) as stream:
            assert isinstance(stream.get_final_completion().choices[0].message.parsed, Boat)
        items = {**ITEMS, "max_output_tokens": ROOMY}
        assert isinstance(client.responses.parse(**items, text_format=Boat).output_parsed, Boat)


def beside(place: Place) -> None:
    with stock(place) as client:
        assert MODEL in [model.id for model in client.models.list()]
        answer = client.chat.completions.create(**CHAT, n=3, logprobs=True, top_logprobs=2)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert all(len(token.top_logprobs) == 2 for token in answer.choices[0].logprobs.content)
        scored = client.completions.create(**{**TEXT, "max_tokens": 0}, echo=True, logprobs=1).choices[0]
        assert scored.text == QUESTION
        assert client.chat.completions.with_raw_response.create(**CHAT).headers["x-request-id"]


def refused(place: Place, change: dict[str, Any], kind: str) -> None:
    import openai

    with stock(place) as client:
        try:
            client.chat.completions.create(**{**CHAT, **change})
        except openai.APIStatusError as error:
            assert type(error).__name__ == kind, error  # noqa: PT017 - pytest is not in this environment
        else:
            raise AssertionError("it was answered")


DOINGS = {
    "chat: sync, async, each whole and streamed; graded": chat,
    "completions: sync, async, each whole and streamed": completions,
    "Responses: sync, async, each whole and streamed; graded": responses,
    "tools in chat and in Responses: called, result sent back": tools,
    "`parse` and `stream` with a pydantic model, in chat and in Responses": parsed,
    "models, several choices, log-probabilities, `echo`, request ids": beside,
    "an unknown model is its `NotFoundError`": partial(refused, change={"model": "gpt"}, kind="NotFoundError"),
    "a bad field is its `BadRequestError`": partial(refused, change={"top_p": 2}, kind="BadRequestError"),
}
