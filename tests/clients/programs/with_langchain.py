"""langchain-openai: chat models and text models."""

import asyncio
from collections.abc import Coroutine
from functools import cache
from typing import Any, Literal

from tests.clients.programs.place import MODEL, QUESTION, Boat, Place

PACKAGE = "langchain-openai"
SHORT, ROOMY = 24, 300  # tokens of an answer


def chat_model(place: Place, tokens: int = SHORT, **more: Any) -> Any:
    from langchain_openai import ChatOpenAI

    asked = {"base_url": place.v1, "api_key": place.key, "max_retries": 0, "seed": 1, **more}
    return ChatOpenAI(model=MODEL, max_completion_tokens=tokens, **asked)


@cache
def runner() -> asyncio.Runner:
    """Give the one event loop of the program: the library keeps its connections for the loop that was first."""
    return asyncio.Runner()


def awaited(what: Coroutine[Any, Any, Any]) -> Any:
    return runner().run(what)


def tool() -> Any:
    from langchain_core.tools import StructuredTool

    def turn(way: Literal["north", "south"]) -> str:
        """Turn the boat."""
        return f"heading {way}"

    return StructuredTool.from_function(turn)


def joined(chunks: list[Any]) -> Any:
    full = chunks[0]
    for chunk in chunks[1:]:
        full += chunk
    return full


def chat(place: Place) -> None:
    model = chat_model(place)
    whole = model.invoke(QUESTION)
    assert whole.content
    assert awaited(chat_model(place).ainvoke(QUESTION)).content == whole.content
    assert len(model.batch([QUESTION, "1 + 1"])) == 2
    place.grade(whole.response_metadata["id"])


def stream(place: Place) -> None:
    whole = chat_model(place).invoke(QUESTION)
    full = joined(list(chat_model(place, stream_usage=True).stream(QUESTION)))
    assert full.content == whole.content
    assert full.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"]

    async def gathered() -> Any:
        return joined([chunk async for chunk in chat_model(place).astream(QUESTION)])

    assert awaited(gathered()).content == whole.content


def loop(model: Any) -> None:
    """Call the tool, whole and streamed, and send its result back."""
    from langchain_core.messages import HumanMessage

    turn, first = tool(), HumanMessage(QUESTION)
    calling = model.bind_tools([turn], tool_choice="any", parallel_tool_calls=False)
    answer = calling.invoke([first])
    (call,) = answer.tool_calls
    assert call["name"] == "turn"
    last = model.bind_tools([turn], tool_choice="none").invoke([first, answer, turn.invoke(call)])
    assert not last.tool_calls
    (streamed,) = joined(list(calling.stream([first]))).tool_calls
    assert streamed["args"]["way"] in {"north", "south"}
    named = model.bind_tools([turn], tool_choice="turn", strict=True).invoke([first])
    assert [called["name"] for called in named.tool_calls] == ["turn"]


def tools(place: Place) -> None:
    loop(chat_model(place, ROOMY))


def structured(place: Place, method: str) -> None:
    model = chat_model(place, ROOMY).with_structured_output(Boat, method=method)
    assert isinstance(model.invoke(QUESTION), Boat)
    assert list(model.stream(QUESTION))[-1].colour in {"red", "blue"}

    async def found() -> Any:
        return await chat_model(place, ROOMY).with_structured_output(Boat, method=method).ainvoke(QUESTION)

    assert isinstance(awaited(found()), Boat)


def beside_tools(place: Place) -> None:
    model = chat_model(place, ROOMY).bind_tools([tool()], response_format=Boat, parallel_tool_calls=False, strict=True)
    for seed in range(8):  # it calls, or what it says has the form
        answer = model.bind(seed=seed).invoke(QUESTION)
        assert answer.tool_calls or Boat.model_validate_json(answer.content)


def log_probabilities(place: Place) -> None:
    answer = chat_model(place, logprobs=True, top_logprobs=2, extra_body={"latent": {"length": 0}}).invoke(QUESTION)
    told = answer.response_metadata["logprobs"]["content"]
    assert all(token["logprob"] <= 0 and len(token["top_logprobs"]) == 2 for token in told)


def responses(place: Place) -> None:
    model = chat_model(place, ROOMY, use_responses_api=True, seed=None)
    assert model.invoke(QUESTION).text
    assert joined(list(model.stream(QUESTION))).text
    assert isinstance(model.with_structured_output(Boat, method="json_schema").invoke(QUESTION), Boat)
    loop(model)


def text(place: Place) -> None:
    from langchain_openai import OpenAI

    model = OpenAI(model=MODEL, base_url=place.v1, api_key=place.key, max_tokens=SHORT, max_retries=0, seed=1)
    whole = model.invoke("2 + 3")
    assert whole
    assert "".join(model.stream("2 + 3")) == whole


DOINGS = {
    "`ChatOpenAI`: chat, sync, async and in a batch; graded": chat,
    "`ChatOpenAI`: streamed, sync and async": stream,
    "`bind_tools`: called, streamed, result sent back": tools,
    "`with_structured_output` by `json_schema`, whole, streamed, async": lambda place: structured(place, "json_schema"),
    "`with_structured_output` by `function_calling`, likewise": lambda place: structured(place, "function_calling"),
    "tools and a form for the last word in one request": beside_tools,
    "log-probabilities": log_probabilities,
    "`use_responses_api`: chat, streamed, tools, structured output": responses,
    "`OpenAI`: text completion, whole and streamed": text,
}
