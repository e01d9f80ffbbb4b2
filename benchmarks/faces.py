"""The other faces of the API under the load of `lepo bench http`: Responses, and chat with tools on offer.

Each is streamed and read to its last event, and set beside the engine's rate. With tools the prompt is longer and the
answer is looked through for calls. Leaves out what only plain completions are looked at for (times of single tokens).
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from benchmarks.client import connect
from benchmarks.load import TEMPERATURE, TOP_K, TOP_P, Ask
from benchmarks.serving import SERVED_NAME, Served

ROOM: Final = 640  # positions that chat's turns and the tools take; their letters are tokens of the bench's models
TOOLS: Final = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds.",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        },
    }
]


@dataclass(frozen=True, slots=True)
class Face:
    """One way to ask."""

    path: str
    budget: str  # the field that bounds an answer
    prompt: str  # the field that holds the prompt
    tools: bool
    last: bytes  # in the last event of a good stream


FACES: Final = {
    "responses": Face("/v1/responses", "max_output_tokens", "input", tools=False, last=b"event: response.incomplete"),
    "tools": Face("/v1/chat/completions", "max_tokens", "messages", tools=True, last=b'"interaction_id"'),
}


def body_of(face: Face, ask: Ask, seed: int) -> dict[str, Any]:
    """Write an ask as a request; words that are not spelled alike by two tokens keep the prompt's length."""
    text = " ".join(f"w{token}" for token in ask.prompt_ids)
    drawn = {"temperature": TEMPERATURE, "top_k": TOP_K, "top_p": TOP_P, "seed": seed, "ignore_eos": True}
    return {
        "model": SERVED_NAME,
        face.prompt: text if face.prompt == "input" else [{"role": "user", "content": text}],
        face.budget: ask.answer_length,
        "latent": {"length": 0},
        "stream": True,
        **drawn,
        **({"tools": TOOLS} if face.tools else {}),
    }


def ask_face(served: Served, face: Face, asks: Sequence[Ask], streams: int) -> int:
    """Stream every ask, `streams` at a time.

    Returns:
        how many did not come to their proper end.

    """

    def bodies() -> Iterator[dict[str, Any]]:
        return (body_of(face, ask, seed) for seed, ask in enumerate(asks))

    async def run() -> int:
        waiting = bodies()
        async with connect(served.base_url, served.key, streams) as client:

            async def worker() -> int:
                return sum([not await stream(client, face, body) for body in waiting])

            return sum(await asyncio.gather(*(worker() for _ in range(streams))))

    return asyncio.run(run())


async def stream(client: httpx.AsyncClient, face: Face, body: dict[str, Any]) -> bool:
    """Read one stream; says whether it came to its proper end."""
    data = b""
    async with client.stream("POST", face.path, json=body) as response:
        if response.status_code != 200:
            return False
        async for piece in response.aiter_raw():
            data = (data + piece)[-65_536:]
    return face.last in data
