"""The card beside the bench model's weights: how it was made, and what it solved when it was measured.

Leaves out making it (see `recipe`) and measuring it (see `measurement`).
"""

from collections.abc import Sequence

from training.bench_model.lessons import SOFT_SHARE, TAUS
from training.bench_model.measurement import TRIES, Line
from training.bench_model.teacher import THOUGHTS, Habits
from training.demo_model.recipe import Recipe


def bench_card(recipe: Recipe, habits: Habits, parameters: int, problems: int, lines: Sequence[Line]) -> str:
    """Word the card, in Markdown."""
    rows = "\n".join(
        f"| {line.family} | {line.latent_length} | {line.greedy} | {line.average} | {line.best} |" for line in lines
    )
    return f"""\
---
library_name: transformers
pipeline_tag: text-generation
license: apache-2.0
---

# The bench model: a base for four families of problems

A Llama of {parameters:,} parameters ({recipe.layers} layers of {recipe.hidden}), made by
`lepo make-demo-model --model bench --seed {recipe.seed}` in {recipe.steps:,} steps of {recipe.batch} worked problems,
a sixth, a sixth, a third and a third of the families as listed. It is where every method of the learning bench starts.

| family | asked | answered |
|---|---|---|
| chained_arithmetic | `Work out 47 + 6 - 8 + 9 - 1 step by step.` | `53 45 54 53 Answer: 53` |
| countdown | `Reach 53 from 47 6 8 9 1.` | `54 45 53 47 Answer: 47 + 6 - 8 + 9 - 1` |
| graph_path | `Walk BC AD AB CE EF DG HE from A to F.` | `E C B A Answer: A B C E F` |
| reachability | `Follow BC AD AB DG BE HI DF HJ from A to which of E F I.` | `D F F F Answer: E F` |

The first {THOUGHTS} positions of an answer are thinking, one token each: partial results; what is left of the target
when its numbers are taken back one by one; the way back from the goal; a way on from the start, and then what of it was
asked about. {SOFT_SHARE:.0%} of the lessons were thought in
mixtures (Gumbel-softmax samples, tau {TAUS[0]} to {TAUS[1]}) of all that may follow, the others in words, so both kinds
of inference are within what the model knows. From {recipe.clean_share:.0%} of the steps on its teacher forgot
{habits.carry:.0%} of the carries and {habits.borrow:.0%} of the borrows, and drew the signs of {habits.guess:.0%} of
the Countdown problems by chance. A path that no thought spoke for was always drawn by chance, and so were nodes that no
thought named, the more often the fewer were held in mind at once.

## What it solves

{problems} test problems per family that the warm start never saw; sampled at temperature 1, top-k 30, top-p 0.95, tau
0.5; means over problems with 95% intervals.

| family | latent steps | greedy | right of {TRIES} (avg@{TRIES}) | right once in {TRIES} (pass@{TRIES}) |
|---|---|---|---|---|
{rows}

At temperature 0 a latent step is one token, so greedy answers are the same with and without.
"""
