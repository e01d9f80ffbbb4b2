"""Ask one problem the way a stock OpenAI client does: a streamed chat completion with latent settings in `extra_body`.

Failures are counted, never retried: the demo claims that none happens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openai import AsyncOpenAI, OpenAIError

from app.demo.tally import Tally

NOT_RETRIED = 0
TIMEOUT_S = 60.0  # of a request, when the caller does not say


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice, whole."""

    interaction_id: str  # int_<hex>, committed before it was sent
    text: str  # without any trace of the latent steps
    finish_reason: str


def stock_client(base_url: str, api_key: str, timeout_s: float = TIMEOUT_S) -> AsyncOpenAI:
    """Make an unmodified OpenAI client for the server."""
    return AsyncOpenAI(base_url=f"{base_url}/v1", api_key=api_key, max_retries=NOT_RETRIED, timeout=timeout_s)


async def ask(
    client: AsyncOpenAI,
    prompt: str,
    tally: Tally,
    *,
    choices: int,
    seed: int,
    grader: Mapping[str, Any] | None = None,
    task: str = "",
) -> list[Answer]:
    """Ask `prompt` for `choices` answers; an empty list when the request failed, which is counted."""
    extra: dict[str, Any] = {} if grader is None else {"grader": dict(grader)}
    tally.requests += 1
    texts = [""] * choices
    answers: list[Answer] = []
    try:
        stream = await client.chat.completions.create(
            model="lepo",
            messages=[{"role": "user", "content": prompt}],
            n=choices,
            seed=seed,
            stream=True,
            metadata={"task": task},
            extra_body=extra,
        )
        async for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                if choice.finish_reason is not None:
                    interaction_id = (choice.model_extra or {})["interaction_id"]
                    answers.append(Answer(interaction_id, texts[choice.index], choice.finish_reason))
    except OpenAIError as error:
        tally.fail(f"ask: {error}")
        return []
    if len(answers) != choices:
        tally.fail(f"ask: {len(answers)} of {choices} choices were finished")
    tally.answers += len(answers)
    return answers
