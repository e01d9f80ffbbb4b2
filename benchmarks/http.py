"""`lepo bench http`: what of the engine's speed reaches clients, when every answer is streamed and committed.

Plain completions are looked at closely; Responses and chat with tools have a row each (`benchmarks.faces`).
The same load goes in turn to an engine in this process and to a uvicorn server with engine, database and event loop of
its own; while one works the other is idle. Leaves out swaps (`benchmarks.swap`).
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.report import Bound, finish, judged
from benchmarks.shapes import SHAPES, Shape

if TYPE_CHECKING:
    from benchmarks.client import Streamed
    from benchmarks.load import Ask
    from benchmarks.serving import Served
    from benchmarks.timing import Series

ROWS = ("http", "responses", "tools")  # plain completions, and the faces of `benchmarks.faces`
BOUNDS = (
    Bound("fraction_of_engine", 0.7, "at least"),
    Bound("failed", 0, "at most"),
    Bound("broken_streams", 0, "at most"),
    Bound("uncommitted", 0, "at most"),
    Bound("failed_faces", 0, "at most"),
)


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked in each repeat."""

    streams: int  # open at once, and slots of both engines
    requests: int  # per repeat
    prompt: int  # tokens
    answer: int  # tokens
    repeats: int


@click.command()
@click.option("--shape", type=click.Choice([*SHAPES]), default="50m")
@click.option("--streams", type=click.IntRange(min=1), default=32, help="Streams open at once.")
@click.option("--threads", type=click.IntRange(min=1), default=2, help="torch threads of either engine.")
@click.option("--only", multiple=True, type=click.Choice(ROWS), help="Rows to measure beside the engine; else all.")
@click.option("--quick", is_flag=True, help="Short loads, few repeats: a look, not a result.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--device", default="cpu", help="cpu, cuda or cuda:N.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the JSON here too.")
def command(
    shape: str,
    streams: int,
    threads: int,
    only: tuple[str, ...],
    quick: bool,
    as_json: bool,
    device: str,
    dtype: str,
    out: Path | None,
) -> None:
    """Measure concurrent streams through the server beside the engine alone."""
    load = Load(streams, streams, 16, 16, 2) if quick else Load(streams, 2 * streams, 32, 128, 3)
    report = measure(SHAPES[shape], load, threads=threads, device=device, dtype=dtype, rows=only or ROWS)
    finish(report, as_json=as_json, out=out)


def measure(
    shape: Shape, load: Load, *, threads: int, device: str, dtype: str, rows: Sequence[str] = ROWS
) -> dict[str, Any]:
    """Run both sides in turn.

    Args:
        shape: of the model.
        load: what is asked.
        threads: of torch, in either engine.
        device: cpu, cuda or cuda:N.
        dtype: of the weights.
        rows: of `ROWS`, what is set beside the engine.

    Returns:
        the report.

    """
    import torch

    from benchmarks.driving import engine_for
    from benchmarks.faces import FACES, ROOM
    from benchmarks.serving import serving
    from benchmarks.shapes import build_policy
    from benchmarks.timing import machine, ratio, tell
    from training.models.policy import placed

    torch.set_num_threads(1)  # the engine's thread has the cores
    facts = machine()
    where = placed(device)
    policy = build_policy(shape, seed=0, version=0, dtype=getattr(torch, dtype), device=where)
    engine = engine_for(policy, load.streams, load.prompt + load.answer + ROOM, threads)
    engine.start()
    settings = {
        "LEPO_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads),
        "LEPO_SLOTS": str(load.streams),
        "LEPO_MAX_LENGTH": str(load.prompt + load.answer + ROOM),
        "LEPO_DEVICE": where,
        "LEPO_DTYPE": dtype,
    }
    tell(f"{shape.name}: starting the server")
    with serving(shape, 0, settings) as served:
        series, answers, lost = _take_turns(shape, load, engine, served, rows)
        committed = committed_ids(served, answers)
    engine.close(0)
    faces = {name: ratio(series[name], series["engine"]).report() for name in FACES if name in series}
    told = {"failed_faces": lost, "faces": faces}
    plain = summary(series["http"], series["engine"], answers, committed) if "http" in series else {}
    report = {"benchmark": "http", **plain, **told}
    asked = {"shape": shape.name, "threads": threads, "device": where, "dtype": dtype, **asdict(load)}
    return {**report, "bounds": judged(report, BOUNDS), "settings": asked, "machine": facts}


def _take_turns(
    shape: Shape, load: Load, engine: Any, served: "Served", rows: Sequence[str]
) -> "tuple[dict[str, Series], list[Streamed], int]":
    """Tokens per second of each, every streamed completion that was timed, and how many of other faces' were lost."""
    from benchmarks.driving import answer
    from benchmarks.faces import FACES, Face, ask_face
    from benchmarks.load import equal_asks
    from benchmarks.timing import seconds, side_by_side, tell

    tokens = load.requests * load.answer
    answers: list[Streamed] = []

    def asks(repeat: int) -> "list[Ask]":
        return equal_asks(shape, load.requests, load.prompt, load.answer, seed=repeat)

    def over_http(repeat: int) -> float:
        got: list[Streamed] = []
        taken = seconds(lambda: got.extend(ask_all(served, asks(repeat), load.streams)))
        answers.extend(got)
        return tokens / taken

    lost: list[int] = []

    def over(face: Face) -> Callable[[int], float]:
        def run(repeat: int) -> float:
            return tokens / seconds(lambda: lost.append(ask_face(served, face, asks(repeat), load.streams)))

        return run

    warm = 10_000
    answer(engine, asks(warm), warm)
    if "http" in rows:
        over_http(warm)
    answers.clear()
    runs: dict[str, Callable[[int], float]] = {
        "engine": lambda repeat: tokens / seconds(lambda: answer(engine, asks(repeat), repeat)),
        "http": over_http,
    }
    runs |= {name: over(face) for name, face in FACES.items()}
    runs = {name: run for name, run in runs.items() if name == "engine" or name in rows}
    series = side_by_side(runs, load.repeats, lambda line: tell(f"{shape.name}: {line}"))
    return series, answers, sum(lost)


def ask_all(served: "Served", asks: "Sequence[Ask]", streams: int) -> "list[Streamed]":
    """Stream every ask, `streams` at a time."""
    from benchmarks.client import connect, keep_asking

    def bodies() -> Iterator[dict[str, Any]]:
        return (body_of(ask, seed) for seed, ask in enumerate(asks))

    async def run() -> "list[Streamed]":
        async with connect(served.base_url, served.key, streams) as client:
            return await keep_asking(client, streams, bodies)

    return asyncio.run(run())


def body_of(ask: "Ask", seed: int, latents: int = 0) -> dict[str, Any]:
    """Write an ask as a completion request."""
    from benchmarks.load import TEMPERATURE, TOP_K, TOP_P
    from benchmarks.serving import SERVED_NAME

    return {
        "model": SERVED_NAME,
        "prompt": list(ask.prompt_ids),
        "max_tokens": ask.answer_length,
        "temperature": TEMPERATURE,
        "top_k": TOP_K,
        "top_p": TOP_P,
        "seed": seed,
        "ignore_eos": True,
        "latent": {"length": latents},
    }


def committed_ids(served: "Served", answers: "Sequence[Streamed]") -> set[str]:
    """Ids among the answers' that are rows in the database."""
    from sqlalchemy import select

    from app.identifiers import show
    from app.store.tables import Interaction

    with served.store.session() as session:
        stored = {show("int", row) for row in session.scalars(select(Interaction.id))}
    return stored & {answer.interaction_id for answer in answers if answer.interaction_id is not None}


def summary(http: "Series", engine: "Series", answers: "Sequence[Streamed]", committed: set[str]) -> dict[str, Any]:
    """Put the figures together."""
    from benchmarks.timing import percentiles, ratio, significant

    fraction = ratio(http, engine)
    whole = [answer for answer in answers if not answer.failed and not answer.broken]
    return {
        "fraction_of_engine": significant(fraction.median),
        "fraction_spread": fraction.report(),
        "tokens_per_second": {"engine": engine.report(), "http": http.report()},
        "requests": len(answers),
        "failed": sum(answer.failed for answer in answers),
        "broken_streams": sum(answer.broken for answer in answers),
        "committed": len(committed),
        "uncommitted": len(answers) - len(committed),
        "first_token_s": percentiles([answer.first_token_s for answer in whole if answer.token_times]),
        "inter_token_s": percentiles([gap for answer in whole for gap in answer.gaps_s]),
    }


if __name__ == "__main__":
    command()
