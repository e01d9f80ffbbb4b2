"""litellm, by the two prefixes that lead to a server of one's own."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.clients.programs.place import ASKED, MODEL, TURN, Boat, Place

PACKAGE = "litellm"
SHORT, ROOMY = 20, 300  # tokens of an answer


def addressed(place: Place, prefix: str, **more: Any) -> dict[str, Any]:
    return {"model": f"{prefix}/{MODEL}", "api_base": place.v1, "api_key": place.key, "num_retries": 0, **more}


def chat(place: Place, prefix: str) -> None:
    import litellm

    asked = addressed(place, prefix, messages=ASKED, max_tokens=SHORT, seed=1)
    whole = litellm.completion(**asked)
    assert whole.choices[0].message.content
    assert whole.usage.completion_tokens <= SHORT + 2  # latent steps
    again = asyncio.run(litellm.acompletion(**asked))
    assert again.choices[0].message.content == whole.choices[0].message.content
    place.grade(whole.id)


def stream(place: Place, prefix: str) -> None:
    import litellm

    asked = addressed(place, prefix, messages=ASKED, max_tokens=SHORT, seed=1)
    whole = litellm.completion(**asked).choices[0].message.content
    chunks = list(litellm.completion(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
    assert chunks[-1].usage.prompt_tokens > 0

    async def gathered() -> str:
        pieces = await litellm.acompletion(**asked, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in pieces if chunk.choices])

    assert asyncio.run(gathered()) == whole


def tools(place: Place, prefix: str) -> None:
    import litellm

    asked = addressed(place, prefix, tools=[TURN], max_tokens=ROOMY)
    required = {"messages": ASKED, "tool_choice": "required", "parallel_tool_calls": False}
    message = litellm.completion(**asked, **required).choices[0].message
    (call,) = message.tool_calls
    assert call.function.name == "turn"
    result = {"role": "tool", "tool_call_id": call.id, "content": "heading north"}
    last = litellm.completion(**asked, messages=[*ASKED, message, result], tool_choice="none")
    assert isinstance(last.choices[0].message.content, str)
    chunks = list(litellm.completion(**asked, **required, stream=True))
    built = litellm.stream_chunk_builder(chunks, messages=ASKED).choices[0]
    assert [called.function.name for called in built.message.tool_calls] == ["turn"]
    assert built.finish_reason == "tool_calls"


def schema(place: Place, prefix: str) -> None:
    import litellm

    asked = addressed(place, prefix, messages=ASKED, max_tokens=ROOMY)
    whole = litellm.completion(**asked, response_format=Boat)
    assert Boat.model_validate_json(whole.choices[0].message.content)


def latents(place: Place, prefix: str) -> None:
    import litellm

    asked = addressed(place, prefix, messages=ASKED, max_tokens=SHORT)
    counted = [
        litellm.completion(**asked, extra_body={"latent": {"length": length}}).usage.completion_tokens_details
        for length in (0, 3)
    ]
    assert [details.reasoning_tokens for details in counted] == [0, 3]


def text(place: Place, prefix: str) -> None:
    import litellm

    written = "text-completion-openai" if prefix == "openai" else prefix
    found = litellm.text_completion(**addressed(place, written, prompt="2 + 3", max_tokens=SHORT))
    assert found.choices[0].text


def responses(place: Place, prefix: str) -> None:
    import litellm

    asked = addressed(place, prefix, input="2 + 3", max_output_tokens=SHORT)
    assert litellm.responses(**asked).output[-1].content[0].text
    events = list(litellm.responses(**asked, stream=True))
    assert events[-1].type in {"response.completed", "response.incomplete"}


def no_embeddings(place: Place, prefix: str) -> None:
    import litellm

    try:
        litellm.embedding(**addressed(place, prefix, input=["x"]))
    except litellm.NotFoundError as error:
        assert "/v1/embeddings" in str(error)  # noqa: PT017 - pytest is not in this environment
    else:
        raise AssertionError("embeddings were answered")


def of(prefix: str) -> dict[str, Callable[[Place], None]]:
    """What is done by one prefix."""
    done = {
        "chat, sync and async; graded": chat,
        "chat streamed, sync and async": stream,
        "tools: called, streamed, result sent back": tools,
        "structured output by a pydantic model": schema,
        "latent steps by `extra_body`": latents,
        "text completion": text,
        "Responses, whole and streamed": responses,
        "embeddings are refused as not found": no_embeddings,
    }
    return {f"`{prefix}/`: {what}": partial(do, prefix=prefix) for what, do in done.items()}


DOINGS = of("hosted_vllm") | of("openai")
