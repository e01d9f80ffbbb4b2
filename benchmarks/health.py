"""`lepo bench health`: how long `/health` takes beside the largest responses there are.

128 choices or prompts of 500 ids with twenty candidates each are tens of megabytes of JSON; a server that computes,
writes or collects them on its event loop holds up everybody else. The server is a process of its own; its answers are
read and thrown away on one thread, another looks at `/health` every ten milliseconds. Leaves out how fast such
responses are.
"""

import http.client
import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click

from benchmarks.report import Bound, finish, judged
from benchmarks.shapes import SHAPES, Shape

if TYPE_CHECKING:
    from benchmarks.serving import Served

ROWS: Final = 128  # choices, or prompts
EVERY_S: Final = 0.01
QUIET_S: Final = 1.0  # of looks at an idle server
PIECE: Final = 65_536  # bytes read at once
CHAT: Final = "/v1/chat/completions"
PLAIN: Final = "/v1/completions"
LIMIT_MS: Final = 50.0
WORST_MS: Final = 250.0


@click.command()
@click.option("--shape", type=click.Choice([*SHAPES]), default="tiny")
@click.option("--ids", type=click.IntRange(min=8), default=500, show_default=True, help="Of each prompt or answer.")
@click.option("--only", multiple=True, help="Of the loads, by name; otherwise all.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the JSON here too.")
def command(shape: str, ids: int, only: tuple[str, ...], as_json: bool, out: Path | None) -> None:
    """Look at /health while 128 choices, or prompts, are answered with log-probabilities."""
    unknown = set(only) - set(loads(SHAPES[shape], ids))
    if unknown:
        raise click.BadParameter(f"no such load: {', '.join(sorted(unknown))}", param_hint="--only")
    finish(measure(SHAPES[shape], ids, only), as_json=as_json, out=out)


def loads(shape: Shape, ids: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name each load: where it goes, and what it says."""
    first = 8  # below are special tokens
    prompts = [[first + (row * 31 + place) % (shape.vocabulary - first) for place in range(ids)] for row in range(ROWS)]
    scored: dict[str, Any] = {"prompt": prompts, "echo": True, "logprobs": 20}
    drawn = {"max_tokens": ids, "n": ROWS, "ignore_eos": True, "latent": {"length": 0}}
    text: dict[str, Any] = {"prompt": prompts[0][:8], "logprobs": 20, **drawn}
    chat: dict[str, Any] = {"messages": [{"role": "user", "content": "w9 w10"}], "logprobs": True, "top_logprobs": 20}
    return {
        "scored": (PLAIN, {**scored, "max_tokens": 0}),
        "scored_streamed": (PLAIN, {**scored, "max_tokens": 1, "stream": True, "latent": {"length": 0}}),
        "answered": (PLAIN, text),
        "answered_streamed": (PLAIN, {**text, "stream": True}),
        "chat": (CHAT, {**chat, **drawn}),
        "chat_streamed": (CHAT, {**chat, **drawn, "stream": True}),
    }


def measure(shape: Shape, ids: int, only: tuple[str, ...] = ()) -> dict[str, Any]:
    """Start a server, and put each load on it in turn; returns the report."""
    from benchmarks.serving import serving
    from benchmarks.timing import machine, tell

    facts = machine()
    room = 4 * ids + 64
    settings = {"LEPO_SLOTS": str(ROWS), "LEPO_MAX_LENGTH": str(room), "LEPO_MAX_COMPLETION_TOKENS": str(ids)}
    settings |= {"LEPO_THREADS": "1", "OMP_NUM_THREADS": "1", "LEPO_REQUEST_DEADLINE": "600"}
    found: dict[str, Any] = {}
    with serving(shape, 0, settings) as served:
        found["quiet"] = looked_at(served, None)
        for name, load in loads(shape, ids).items():
            if not only or name in only:
                found[name] = looked_at(served, load)
                tell(f"{name}: {found[name]}")
    report: dict[str, Any] = {
        "benchmark": "health",
        "machine": facts,
        "settings": {"shape": shape.name, "ids": ids, "rows": ROWS},
        "worst_p90_ms": max(one["p90_ms"] for one in found.values()),
        "worst_ms": max(one["max_ms"] for one in found.values()),
        "failed": sum(one["status"] != 200 for one in found.values()),
        "health": found,
    }
    bounds = (
        Bound("worst_p90_ms", LIMIT_MS, "at most"),
        Bound("worst_ms", WORST_MS, "at most"),
        Bound("failed", 0, "at most"),
    )
    return report | {"bounds": judged(report, bounds)}


def looked_at(served: "Served", load: tuple[str, Mapping[str, Any]] | None) -> dict[str, Any]:
    """Look at `/health` while one request is answered; without one for a second."""
    read: dict[str, Any] = {"status": 200, "bytes": 0}
    over = threading.Event()

    def ask() -> None:
        try:
            if load is None:
                time.sleep(QUIET_S)
            else:
                read.update(answered(served, *load))
        finally:
            over.set()

    asking = threading.Thread(target=ask)
    began = time.perf_counter()
    asking.start()
    spent = looks(served, over)
    asking.join()
    spent.sort()
    return {
        "looks": len(spent),
        "p50_ms": round(1000 * spent[len(spent) // 2], 1),
        "p90_ms": round(1000 * spent[int(0.9 * len(spent))], 1),
        "max_ms": round(1000 * spent[-1], 1),
        "seconds": round(time.perf_counter() - began, 1),
        **read,
    }


def looks(served: "Served", over: threading.Event) -> list[float]:
    """Look until it is over; returns the seconds of each."""
    spent = []
    connection = connected(served)
    while not over.is_set():
        began = time.perf_counter()
        connection.request("GET", "/health")
        response = connection.getresponse()
        response.read()
        spent.append(time.perf_counter() - began)
        time.sleep(EVERY_S)
    connection.close()
    return spent


def answered(served: "Served", path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Ask, read the whole response, and throw it away."""
    from benchmarks.serving import SERVED_NAME

    body = json.dumps({"model": SERVED_NAME, "seed": 1, **fields}).encode()
    headers = {"authorization": f"Bearer {served.key}", "content-type": "application/json"}
    connection = connected(served)
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    size, piece = 0, b""
    while more := response.read(PIECE):
        size, piece = size + len(more), more
    connection.close()
    refused = {} if response.status == 200 else {"refused": piece.decode(errors="replace")}
    return {"status": response.status, "bytes": size, **refused}


def connected(served: "Served") -> http.client.HTTPConnection:
    """Make a connection of its own."""
    return http.client.HTTPConnection(urlsplit(served.base_url).netloc, timeout=600)


if __name__ == "__main__":
    command()
