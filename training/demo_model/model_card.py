"""What a made model can do, measured, and the card that says so beside its weights.

Leaves out making it (see `recipe`) and how long that took: this room has no clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.demo_model.measurement import measure
from training.demo_model.recipe import Recipe
from training.sampling import Sampling
from training.tasks.chained_arithmetic import NAME
from training.tasks.families import generate
from training.tasks.problem import Problem
from training.tasks.splits import Split

TRIES = 8  # answers per problem of a sampled figure
LATENT_LENGTHS = (0, 2, 4)  # measured; 4 is the fewest steps a chain has, so the marker is always text
LEARNING = {
    "latent length": "4",
    "tau": "0.5",
    "temperature, top-k, top-p": "1, 30, 0.95",
    "update": "16 prompts x 8 answers, one on-policy step",
    "optimizer": "Adam, learning rate 3e-4, betas 0.9 / 0.99, gradient norm clipped at 1",
    "loss": "LEPO, grpo normalisation, group advantage",
}


@dataclass(frozen=True)
class Figure:
    """One measured line of the card."""

    what: str  # how the answers were drawn
    average: float  # share of right answers, in [0, 1]
    best: float | None  # share of problems solved by at least one of TRIES answers; None for greedy


def draw_test(size: int) -> list[Problem]:
    """Return test problems: never in the warm start, never to be learned from."""
    return generate(NAME, Split.TEST, size, seed=0)


def figures(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem]) -> list[Figure]:
    """Measure greedy and sampled answers, with and without latent steps."""
    lines = []
    for length in LATENT_LENGTHS:
        steps = f"{length} latent steps" if length else "tokens only"
        greedy = measure(model, tokenizer, problems, Sampling(latent_length=length, temperature=0.0), 1)
        sampled = measure(model, tokenizer, problems, Sampling(latent_length=length), TRIES)
        lines.append(Figure(f"greedy, {steps}", greedy.average, None))
        lines.append(Figure(f"sampled, {steps}", sampled.average, sampled.best))
    return lines


def card(recipe: Recipe, parameters: int, problems: int, lines: Sequence[Figure]) -> str:
    """Word the card, in Markdown."""
    rows = "\n".join(
        f"| {line.what} | {line.average:.1%} | {'' if line.best is None else f'{line.best:.1%}'} |" for line in lines
    )
    learning = "\n".join(f"| {what} | {setting} |" for what, setting in LEARNING.items())
    return f"""\
---
library_name: transformers
pipeline_tag: text-generation
license: apache-2.0
---

# The demo model: a pupil of chained arithmetic

A Llama of {parameters:,} parameters ({recipe.layers} layers of {recipe.hidden}), made by
`lepo make-demo-model --seed {recipe.seed}`. It works sums such as `Work out 47 + 6 - 8 + 9 step by step.` by writing
one partial result per token, then `Answer:` and the result. It does nothing else.

Its teacher forgot {recipe.slips.carry:.0%} of the carries and {recipe.slips.borrow:.0%} of the borrows, and wrote
{recipe.slips.digit:.0%} of the digits wrongly, and the model has taken on these habits. They are there to be unlearned
from grades.

## What it solves

{problems} test problems of 4, 5 and 6 operations that the warm start never saw; sampled at temperature 1, top-k 30,
top-p 0.95, tau 0.5.

| answers | right | right in {TRIES} tries |
|---|---|---|
{rows}

The first partial results are what latent steps stand in for. With up to 4 of them the marker and the result are always
text.

## How it learns well

| | |
|---|---|
{learning}
"""


def write_card(directory: Path, text: str) -> None:
    """Write the card where the hub looks for it."""
    (directory / "README.md").write_text(text, encoding="utf-8")
