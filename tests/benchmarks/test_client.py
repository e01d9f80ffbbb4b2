"""The measuring client: what it counts as failed or broken, on a real socket."""

import asyncio
import json
from collections.abc import Sequence

from benchmarks.client import Streamed, connect, keep_asking, until

PIECE = {"choices": [{"text": "w1 ", "finish_reason": None}]}
END = {"choices": [{"text": "", "finish_reason": "length", "interaction_id": "int_1", "policy_version": 3}]}
USAGE = {"choices": [], "usage": {"completion_tokens": 2}}
GOOD = [PIECE, PIECE, END, USAGE, "[DONE]"]


def events(parts: Sequence[object]) -> bytes:
    compact = (part if isinstance(part, str) else json.dumps(part, separators=(",", ":")) for part in parts)
    return b"".join(f"data: {part}\n\n".encode() for part in compact)


def ask(status: str, body: bytes, *, requests: int = 1) -> list[Streamed]:
    """Stream from a server that always answers the same."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\nconnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    async def run() -> list[Streamed]:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with connect(f"http://127.0.0.1:{port}", "key", 2) as client:
                return await keep_asking(client, 2, lambda: iter([{"model": "m"}] * requests))

    return asyncio.run(run())


def test_a_whole_stream_is_read() -> None:
    [answer] = ask("200 OK", events(GOOD))
    assert not answer.failed
    assert not answer.broken
    assert (answer.interaction_id, answer.policy_version, answer.completion_tokens) == ("int_1", 3, 2)
    assert len(answer.token_times) == 2
    assert answer.first_token_s > 0
    assert len(answer.gaps_s) == 1


def test_a_refusal_is_failed() -> None:
    [answer] = ask("429 Too Many Requests", b"later")
    assert answer.failed
    assert answer.error == "later"


def test_a_stream_that_ends_early_is_broken() -> None:
    [answer] = ask("200 OK", events(GOOD[:-1]))
    assert answer.broken
    [answer] = ask("200 OK", events([PIECE, "[DONE]"]))
    assert answer.broken


def test_an_error_inside_a_stream_is_broken() -> None:
    [answer] = ask("200 OK", events([PIECE, {"error": {"message": "no"}}, "[DONE]"]))
    assert answer.broken
    assert answer.error is not None
    assert "no" in answer.error


def test_all_bodies_are_asked_whatever_the_streams() -> None:
    assert len(ask("200 OK", events(GOOD), requests=5)) == 5


def test_waiting_ends() -> None:
    async def never() -> bool:
        return False

    assert asyncio.run(until(never, 0.01, every=0.001)) is False
