"""One section per question to the engine; each runs its peers in turn on the same modules and the same prompts.

Every run has a thread of its own (`benchmarks.cores`), so that no peer pays for the cores that another one keeps.

Every section returns medians with their spread and the ratio asked for. Leaves out which shapes are asked what
(`benchmarks.engine`).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from benchmarks.bare import BareForward
from benchmarks.cores import apart
from benchmarks.driving import answer, engine_for, steps_per_second
from benchmarks.load import Ask, equal_asks, ragged_asks, requests
from benchmarks.peers import continuous_batching, faster_cache, generate, generate_in_batches
from benchmarks.shapes import Shape
from benchmarks.timing import Run, Series, ratio, seconds, side_by_side, significant
from training.models.policy import Policy

Tell = Callable[[str], None]
WARM_UP_SEED = 10_000  # beyond the number of any repeat


@dataclass(frozen=True, slots=True)
class Equal:
    """Load of equal lengths."""

    prompt: int  # tokens
    answer: int  # tokens
    repeats: int


@dataclass(frozen=True, slots=True)
class Ragged:
    """Load of uneven lengths, all submitted at once."""

    count: int  # requests
    slots: int  # decoded together, and the batch of `generate`
    prompts: tuple[int, int]  # shortest and longest, tokens
    answers: tuple[int, int]
    repeats: int

    @property
    def longest(self) -> int:
        """Positions of the longest request."""
        return self.prompts[1] + self.answers[1]


@dataclass(frozen=True, slots=True)
class Steps:
    """Load of one full batch whose steps are counted."""

    batch: int  # rows
    prompt: int  # tokens
    steps: int  # decode steps
    repeats: int


def against_generate(policy: Policy, shape: Shape, load: Equal, batch: int, threads: int, tell: Tell) -> dict[str, Any]:
    """Equal lengths: a static batch wastes nothing, so this is `generate` at its best."""

    def asks(repeat: int) -> list[Ask]:
        return equal_asks(shape, batch, load.prompt, load.answer, seed=repeat)

    engine = engine_for(policy, batch, load.prompt + load.answer)
    cache = apart(threads, lambda: faster_cache(policy, asks(WARM_UP_SEED)))
    apart(threads, lambda: answer(engine, asks(WARM_UP_SEED), WARM_UP_SEED))
    tokens = batch * load.answer
    runs: dict[str, Run] = {
        "engine": lambda repeat: tokens / seconds(lambda: answer(engine, asks(repeat), repeat)),
        "generate": lambda repeat: tokens / seconds(lambda: generate(policy, asks(repeat), cache)),
    }
    series = side_by_side(each_apart(threads, runs), load.repeats, tell)
    engine.close(0)
    settings = {**asdict(load), "batch": batch, "generate_cache": cache}
    return _compared("tokens_per_second", series, "engine", "generate", settings)


def ragged(
    policy: Policy, shape: Shape, load: Ragged, threads: int, tell: Tell, *, continuous: bool
) -> dict[str, dict[str, Any]]:
    """Uneven lengths, against `generate` in batches and, if asked, against `generate_batch`.

    Returns:
        "generate" and perhaps "continuous_batching", each with its ratio.

    """

    def asks(repeat: int) -> list[Ask]:
        prompts, answers = (range(low, high + 1) for low, high in (load.prompts, load.answers))
        return ragged_asks(shape, load.count, prompts, answers, seed=repeat)

    tokens = [sum(ask.answer_length for ask in asks(repeat)) for repeat in range(load.repeats)]
    engine = engine_for(policy, load.slots, load.longest)
    warm = asks(WARM_UP_SEED)[: load.slots]
    cache = apart(threads, lambda: faster_cache(policy, warm))
    apart(threads, lambda: answer(engine, warm, WARM_UP_SEED))
    runs: dict[str, Run] = {
        "engine": lambda r: tokens[r] / seconds(lambda: answer(engine, asks(r), r)),
        "generate": lambda r: tokens[r] / seconds(lambda: generate_in_batches(policy, asks(r), load.slots, cache)),
    }
    if continuous:
        runs["continuous_batching"] = lambda r: tokens[r] / _continuous_seconds(policy, load, warm, asks(r))
    series = side_by_side(each_apart(threads, runs), load.repeats, tell)
    engine.close(0)
    settings = {**asdict(load), "tokens": tokens, "generate_cache": cache}
    return {
        peer: _compared("tokens_per_second", series, "engine", peer, settings) for peer in series if peer != "engine"
    }


def _continuous_seconds(policy: Policy, load: Ragged, warm: list[Ask], asks: list[Ask]) -> float:
    """Time of a load in transformers' continuous batching; its start and a first load are not timed.

    It is stopped afterwards, so that its thread does not wait beside the other peers.
    """
    with continuous_batching(policy, load.slots, load.longest) as batching:
        batching.answer(warm)
        answers: list[list[int]] = []
        taken = seconds(lambda: answers.extend(batching.answer(asks)))
    assert [len(made) for made in answers] == [ask.answer_length for ask in asks]
    return taken


def over_bare_forward(policy: Policy, shape: Shape, load: Steps, threads: int, tell: Tell) -> dict[str, Any]:
    """Compare the steps per second of a started engine, sinks and text included, with those of bare forwards."""
    bare = BareForward(policy, load.batch, load.prompt, load.steps - 1)

    def engine_rate(repeat: int) -> float:
        engine = engine_for(policy, load.batch, load.prompt + load.steps, threads)
        engine.start()
        try:
            for seed, steps in ((WARM_UP_SEED, min(8, load.steps)), (repeat, load.steps)):
                asks = equal_asks(shape, load.batch, load.prompt, steps, seed=seed)
                rate = steps_per_second(engine, requests(asks, seed))
        finally:
            engine.close(0)
        return rate

    def bare_rate(_repeat: int) -> float:
        bare.steps_per_second()
        return bare.steps_per_second()

    runs = each_apart(1, {"engine": engine_rate}) | each_apart(threads, {"bare": bare_rate})  # its thread has the cores
    series = side_by_side(runs, load.repeats, tell)
    return _compared("steps_per_second", series, "engine", "bare", asdict(load))


def latent_over_token(policy: Policy, shape: Shape, load: Steps, threads: int, tell: Tell) -> dict[str, Any]:
    """Divide what a latent step takes by what a token step takes.

    Three runs on the same lengths: one step alone, then N further latent steps, then N further token steps. The first
    holds the prompts, and is taken away from both.
    """
    longest = load.prompt + load.steps + 1
    engine = engine_for(policy, load.batch, longest)

    def taken(repeat: int, lane: int, latents: int, tokens: int) -> float:
        asks = equal_asks(shape, load.batch, load.prompt, tokens, seed=3 * repeat + lane)
        return seconds(lambda: answer(engine, asks, repeat, latents))

    runs: dict[str, Run] = {
        "first": lambda repeat: taken(repeat, 0, 0, 1),
        "latent": lambda repeat: taken(repeat, 1, load.steps, 1),
        "token": lambda repeat: taken(repeat, 2, 0, 1 + load.steps),
    }
    runs = each_apart(threads, runs)
    for run in runs.values():
        run(WARM_UP_SEED)
    series = side_by_side(runs, load.repeats, tell)
    engine.close(0)
    steps = {kind: _per_step(series[kind], series["first"], load.steps) for kind in ("latent", "token")}
    return _compared("milliseconds_per_step", steps, "latent", "token", asdict(load))


def each_apart(threads: int, runs: Mapping[str, Run]) -> dict[str, Run]:
    """Give every run a thread of its own."""

    def alone(run: Run, repeat: int) -> float:
        return apart(threads, partial(run, repeat))

    return {name: partial(alone, run) for name, run in runs.items()}


def _per_step(whole: Series, first: Series, steps: int) -> Series:
    """Milliseconds per step, the prompts taken away; their median, since one repeat's could be longer by chance."""
    return Series(tuple(1000 * max(taken - first.median, 1e-9) / steps for taken in whole.values))


def _compared(
    unit: str, series: Mapping[str, Series], one: str, other: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Ratio of two peers with everything it was made from."""
    paired = ratio(series[one], series[other])
    return {
        "ratio": significant(paired.median),
        "ratio_spread": paired.report(),
        unit: {name: series[name].report() for name in (one, other)},
        "settings": dict(settings),
    }
