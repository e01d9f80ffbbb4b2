"""openai-agents: an agent that calls a tool and has the last word, over both APIs, whole and streamed."""

import asyncio
from functools import partial
from typing import Any, Literal

from tests.clients.programs.place import MODEL, QUESTION, Boat, Place

PACKAGE = "openai-agents"
ENDS = {"logit_bias": {"1": 6}}  # the end of sequence is likely wherever it may come
MOST_TURNS = 30


def ran(place: Place, api: str, turned: list[str], *, streamed: bool, **more: Any) -> Any:
    """Run an agent that must call its tool first."""
    import agents
    from openai import AsyncOpenAI

    def turn(way: Literal["north", "south"]) -> str:
        """Turn the boat."""
        turned.append(way)
        return f"heading {way}"

    async def run() -> Any:
        agents.set_tracing_disabled(True)
        async with AsyncOpenAI(base_url=place.v1, api_key=place.key, max_retries=0) as client:
            kinds = {"Responses": agents.OpenAIResponsesModel, "chat": agents.OpenAIChatCompletionsModel}
            agent = agents.Agent(
                "pilot",
                instructions="Steer.",
                model=kinds[api](model=MODEL, openai_client=client),
                tools=[agents.function_tool(turn)],
                model_settings=agents.ModelSettings(tool_choice="required", parallel_tool_calls=False, extra_body=ENDS),
                **more,
            )
            if not streamed:
                return await agents.Runner.run(agent, QUESTION, max_turns=MOST_TURNS)
            result = agents.Runner.run_streamed(agent, QUESTION, max_turns=MOST_TURNS)
            async for _ in result.stream_events():
                pass
            return result

    return asyncio.run(run())


def loop(place: Place, api: str, *, streamed: bool) -> None:
    turned: list[str] = []
    result = ran(place, api, turned, streamed=streamed)
    assert turned
    assert isinstance(result.final_output, str)
    done = [item.type for item in result.new_items if item.type.startswith("tool")]
    assert done[:2] == ["tool_call_item", "tool_call_output_item"]


def typed(place: Place, api: str) -> None:
    turned: list[str] = []
    result = ran(place, api, turned, streamed=False, output_type=Boat)
    assert turned
    assert isinstance(result.final_output, Boat)


DOINGS = {
    f"{api}: a loop of tools, {'streamed' if streamed else 'whole'}": partial(loop, api=api, streamed=streamed)
    for api in ("Responses", "chat")
    for streamed in (False, True)
} | {f"{api}: a loop of tools that ends in a typed output": partial(typed, api=api) for api in ("Responses", "chat")}
