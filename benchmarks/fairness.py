"""`lepo bench fairness`: how many steps a short prompt waits for its first token, whatever else is there.

Counted in turns of the engine's loop, so the machine's speed does not enter. Beside each short request there are long
prompts under way, running answers, one request with more choices than slots, and one too large for the blocks that are
left. Leaves out time (`benchmarks.http`).
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.report import Bound, finish, judged

if TYPE_CHECKING:
    from app.engine.engine import Engine
    from app.engine.request import Event, Request

BOUNDS = (
    Bound("ttft_steps_short_behind_long", 3, "at most"),
    Bound("ttft_steps_short_behind_many_choices", 3, "at most"),
    Bound("ttft_steps_short_behind_too_large", 3, "at most"),
)
_SLOTS, _LENGTH, _CHUNK = 16, 2048, 256
_LONG, _SHORT = 1500, 24  # tokens of a prompt


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=100, show_default=True, help="Short requests of a case.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the JSON here too.")
def command(rounds: int, as_json: bool, out: Path | None) -> None:
    """Count the steps that short prompts wait behind long ones."""
    finish(measure(rounds), as_json=as_json, out=out)


def measure(rounds: int) -> dict[str, Any]:
    """Run every case; a figure is the 99th percentile over its short requests."""
    from benchmarks.timing import machine

    facts = machine()
    cases = {
        "ttft_steps_short_behind_long": _behind_long,
        "ttft_steps_short_behind_many_choices": _behind_many_choices,
        "ttft_steps_short_behind_too_large": _behind_too_large,
    }
    waits = {name: sorted(case(rounds)) for name, case in cases.items()}
    report: dict[str, Any] = {"benchmark": "fairness", "machine": facts}
    report |= {name: steps[min(len(steps) - 1, int(0.99 * len(steps)))] for name, steps in waits.items()}
    report["most"] = {name: steps[-1] for name, steps in waits.items()}
    report["settings"] = {"slots": _SLOTS, "prefill_chunk": _CHUNK, "long": _LONG, "short": _SHORT, "rounds": rounds}
    report["bounds"] = judged(report, BOUNDS)
    return report


def _behind_long(rounds: int) -> Iterator[int]:
    """Three long prompts are always under way, and six answers run."""
    engine, draw = _engine(), seeded(1)
    for _ in range(rounds):
        while _under_way(engine) < 3:
            engine.submit(_asked(draw, _LONG, 8), _deaf)
            engine._turn()
        while engine.stats().running < 6:
            engine.submit(_asked(draw, _SHORT, 40), _deaf)
            engine._turn()
        yield _waited(engine, _asked(draw, _SHORT, 2))


def _behind_many_choices(rounds: int) -> Iterator[int]:
    """Let five times as many choices as there are slots wait for rows; one slot has just come free."""
    engine, draw = _engine(), seeded(2)
    for _ in range(rounds):
        while engine.stats().waiting < _SLOTS:
            engine.submit(_asked(draw, _SHORT, 24, choices=5 * _SLOTS), _deaf)
            for _ in range(3):
                engine._turn()
        before = engine.stats().finished
        while engine.stats().finished == before:
            engine._turn()
        yield _waited(engine, _asked(draw, _SHORT, 2))


def _behind_too_large(rounds: int) -> Iterator[int]:
    """One that fits the engine but not what is left of the blocks waits at the head of the queue."""
    engine, draw = _engine(cache_tokens=_LENGTH + 512), seeded(3)
    for _ in range(rounds):
        while engine.stats().running < 1:
            engine.submit(_asked(draw, _LONG, 400), _deaf)
            for _ in range(8):
                engine._turn()
        ticket = engine.submit(_asked(draw, _LONG, 8), _deaf)
        engine._turn()
        yield _waited(engine, _asked(draw, _SHORT, 2))
        ticket.cancel()
        engine._turn()


def _waited(engine: "Engine", request: "Request") -> int:
    """Count the turns until a request hears of its first token."""
    heard: list[Event] = []
    engine.submit(request, heard.extend)
    turns = 0
    while not heard:
        engine._turn()
        turns += 1
    return turns


def _under_way(engine: "Engine") -> int:
    return sum(prompt.left > _CHUNK for lane in engine._lanes for prompt in lane.prefill.prompts)


def _engine(cache_tokens: int = 0) -> "Engine":
    import torch

    from app.engine.config import EngineConfig
    from app.engine.engine import Engine
    from benchmarks.shapes import SHAPES, build_policy

    policy = build_policy(SHAPES["micro"], seed=0, version=0, dtype=torch.float32, device="cpu")
    config = EngineConfig(
        slots=_SLOTS, max_length=_LENGTH, prefill_chunk=_CHUNK, prefix_cache_tokens=0, cache_tokens=cache_tokens
    )
    return Engine(policy, config)


def _asked(draw: random.Random, prompt: int, max_new: int, choices: int = 1) -> "Request":
    from app.engine.request import Request
    from training.sampling import Sampling

    ids = tuple(draw.randrange(3, 500) for _ in range(prompt))
    return Request(ids, Sampling(seed=draw.randrange(1 << 30)), max_new=max_new, choices=choices, ignore_eos=True)


def seeded(seed: int) -> random.Random:
    """Draw the same prompts every time."""
    return random.Random(seed)  # noqa: S311 - no secret


def _deaf(_events: "Sequence[Event]") -> None:
    """Listen to nobody."""
