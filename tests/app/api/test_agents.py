"""openai-agents unmodified, by either API: the model calls a tool, the tool is run, and the model has the last word.

The model is random, so that it calls is required of it, and what it says in the end means nothing.
"""

import asyncio
from typing import Any, Literal

import pytest

from app.store.interactions import Filters, list_interactions
from tests.app.api.live import Live

ENDS = {"logit_bias": {"1": 6}}  # the end of sequence is likely wherever it may come
agents = pytest.importorskip("agents", reason="needs openai-agents: pip install 'lepo-service[clients]'")


@pytest.mark.parametrize("api", ["responses", "chat"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_loop_of_tools_runs_unmodified(roomy: Live, api: str, *, streamed: bool) -> None:
    turned: list[str] = []

    @agents.function_tool  # type: ignore[untyped-decorator]  # where the package is not there, nothing is known of it
    def turn(way: Literal["north", "south"]) -> str:
        """Turn the boat."""
        turned.append(way)
        return f"heading {way}"

    async def run() -> Any:
        agents.set_tracing_disabled(True)
        from openai import AsyncOpenAI

        async with AsyncOpenAI(base_url=f"{roomy.url}/v1", api_key=roomy.keys["both"]) as client:
            kinds = {"responses": agents.OpenAIResponsesModel, "chat": agents.OpenAIChatCompletionsModel}
            model = kinds[api](model="lepo", openai_client=client)
            settings = agents.ModelSettings(tool_choice="required", parallel_tool_calls=False, extra_body=ENDS)
            agent = agents.Agent("pilot", instructions="Steer.", model=model, tools=[turn], model_settings=settings)
            if not streamed:
                return await agents.Runner.run(agent, "Go north.")
            result = agents.Runner.run_streamed(agent, "Go north.")
            async for _ in result.stream_events():
                pass
            return result

    result = asyncio.run(run())
    assert len(turned) == 1
    assert isinstance(result.final_output, str)
    done = [item.type for item in result.new_items if item.type.startswith("tool")]
    assert done == ["tool_call_item", "tool_call_output_item"]
    with roomy.store.session() as session:
        newest = list_interactions(session, Filters(), limit=1).items[0][0]
    assert f"heading {turned[0]}" in newest.prompt_text
    assert newest.answer == result.final_output
