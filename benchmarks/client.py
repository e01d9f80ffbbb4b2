"""A client that keeps many streams open and notes when each piece arrived.

It reads server-sent events from raw bytes, because on a small machine the client shares the cores with the server.
Leaves out retries: a failure is counted, never hidden.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx

DONE = b"[DONE]"
TIMEOUT_S = 120.0  # without a byte


@dataclass(slots=True)
class Streamed:
    """One streamed answer as its client saw it."""

    asked_at: float  # perf_counter seconds
    status: int = 0  # HTTP status; 0: no response came
    token_times: list[float] = field(default_factory=list)  # arrival of each piece of text
    interaction_id: str | None = None
    policy_version: int | None = None
    finish_reason: str | None = None
    completion_tokens: int = 0  # latent steps included, as the server counts them
    ended_at: float = 0.0
    error: str | None = None  # what went wrong, in words

    @property
    def failed(self) -> bool:
        """Whether the request was refused or never answered."""
        return self.status != 200

    @property
    def broken(self) -> bool:
        """Whether a stream began and did not come to its proper end: id, reason, usage and the last marker."""
        return not self.failed and (self.error is not None or self.interaction_id is None or not self.finish_reason)

    @property
    def first_token_s(self) -> float:
        """Seconds from asking to the first text."""
        return self.token_times[0] - self.asked_at

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between pieces of text."""
        return [later - earlier for earlier, later in pairwise(self.token_times)]


def connect(base_url: str, key: str, streams: int) -> httpx.AsyncClient:
    """Make a client that may hold `streams` connections."""
    limits = httpx.Limits(max_connections=streams, max_keepalive_connections=streams)
    headers = {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=base_url, headers=headers, limits=limits, timeout=TIMEOUT_S, trust_env=False)


async def stream(client: httpx.AsyncClient, body: dict[str, Any]) -> Streamed:
    """Ask `/v1/completions` for a stream and read it to its end."""
    answer = Streamed(time.perf_counter())
    whole = {**body, "stream": True, "stream_options": {"include_usage": True}}
    try:
        async with client.stream("POST", "/v1/completions", json=whole) as response:
            answer.status = response.status_code
            if answer.failed:
                answer.error = (await response.aread()).decode(errors="replace")
            else:
                await _read(response, answer)
    except httpx.HTTPError as error:
        answer.error = f"{type(error).__name__}: {error}"
    answer.ended_at = time.perf_counter()
    return answer


async def keep_asking(
    client: httpx.AsyncClient, streams: int, bodies: Callable[[], Iterator[dict[str, Any]]]
) -> list[Streamed]:
    """Hold `streams` streams open until the bodies run out; each stream asks for the next when one has ended."""
    waiting = bodies()
    answers: list[Streamed] = []

    async def worker() -> None:
        answers.extend([await stream(client, body) for body in waiting])

    await asyncio.gather(*(worker() for _ in range(streams)))
    return answers


async def until(condition: Callable[[], Awaitable[bool]], seconds: float, every: float = 0.02) -> bool:
    """Ask until a condition holds; False when it did not within `seconds`."""
    deadline = time.perf_counter() + seconds
    while not await condition():
        if time.perf_counter() > deadline:
            return False
        await asyncio.sleep(every)
    return True


async def _read(response: httpx.Response, answer: Streamed) -> None:
    """Read events until the last marker; a stream without one is broken."""
    rest = b""
    done = False
    async for data in response.aiter_raw():
        now = time.perf_counter()
        *events, rest = (rest + data).split(b"\n\n")
        for event in events:
            payload = event.removeprefix(b"data: ")
            if payload == DONE:
                done = True
            else:
                _take(payload, answer, now)
    if not done and answer.error is None:
        answer.error = "the stream ended without its last marker"


def _take(payload: bytes, answer: Streamed, now: float) -> None:
    """Note one event. Only those that are not plain text pieces are parsed: they come once per answer."""
    plain = b'"finish_reason":null' in payload and b'"error"' not in payload
    if plain:
        if b'"text":""' not in payload:
            answer.token_times.append(now)
        return
    event = json.loads(payload)
    if "error" in event:
        answer.error = json.dumps(event["error"])
        return
    for choice in event["choices"]:
        answer.finish_reason = choice["finish_reason"]
        answer.interaction_id = choice["interaction_id"]
        answer.policy_version = choice["policy_version"]
    if event.get("usage"):
        answer.completion_tokens = event["usage"]["completion_tokens"]
