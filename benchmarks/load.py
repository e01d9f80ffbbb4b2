"""What is asked of every peer: prompts, answer lengths and sampling settings, drawn from a seed.

Each repeat of a measurement asks fresh prompts, so that no prefix cache can answer from the repeat before, and every
peer is asked the same ones. Answers end only at their length: random weights seldom draw an end of sequence, and equal
work is what is compared.
"""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.shapes import SPECIALS, Shape

if TYPE_CHECKING:
    from app.engine.request import Request

TEMPERATURE, TOP_K, TOP_P = 1.0, 30, 0.95


@dataclass(frozen=True, slots=True)
class Ask:
    """One prompt and how long its answer must get."""

    prompt_ids: tuple[int, ...]  # token ids, at least one, no special ones
    answer_length: int  # tokens, >= 1


def equal_asks(shape: Shape, count: int, prompt: int, answer: int, seed: int) -> list[Ask]:
    """`count` prompts and answers of the same lengths."""
    return _asks(shape, [prompt] * count, [answer] * count, random.Random(seed))  # noqa: S311 - a load, no secret


def ragged_asks(shape: Shape, count: int, prompts: range, answers: range, seed: int) -> list[Ask]:
    """`count` prompts and answers of lengths drawn evenly from both ranges."""
    rng = random.Random(seed)  # noqa: S311 - a load, no secret
    return _asks(shape, [rng.choice(prompts) for _ in range(count)], [rng.choice(answers) for _ in range(count)], rng)


def requests(asks: list[Ask], seed: int, latents: int = 0) -> "list[Request]":
    """Put the asks as requests to the engine; `latents` steps go before each answer, on top of its length."""
    from app.engine.request import Request
    from training.sampling import Sampling

    return [
        Request(
            prompt_ids=ask.prompt_ids,
            sampling=Sampling(latents, 0.5, TEMPERATURE, TOP_K, TOP_P, seed=seed * len(asks) + index),
            max_new=latents + ask.answer_length,
            ignore_eos=True,
        )
        for index, ask in enumerate(asks)
    ]


def _asks(shape: Shape, prompts: list[int], answers: list[int], rng: random.Random) -> list[Ask]:
    first = len(SPECIALS)
    return [
        Ask(tuple(rng.randrange(first, shape.vocabulary) for _ in range(prompt)), answer)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
