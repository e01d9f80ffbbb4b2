"""The card beside the bench model's weights: how it was made, and what it solved when it was measured.

Leaves out making it (see `recipe`) and measuring it (see `measurement`).
"""

from collections.abc import Sequence

from training.bench_model.measurement import TRIES, Line
from training.bench_model.teacher import Habits
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

# The bench model: a base for three families of problems

A Llama of {parameters:,} parameters ({recipe.layers} layers of {recipe.hidden}), made by
`lepo make-demo-model --model bench --seed {recipe.seed}` in {recipe.steps:,} steps of {recipe.batch} worked problems,
a third of each family. It is where every method of the learning bench starts.

| family | asked | answered |
|---|---|---|
| chained_arithmetic | `Work out 47 + 6 - 8 + 9 step by step.` | `+ 6 53 - 8 45 + 9 54 Answer: 54` |
| countdown | `Reach 54 from 47 6 8 9.` | `+ 6 53 - 8 45 + 9 54 Answer: 47 + 6 - 8 + 9` |
| graph_path | `Walk BC AD AB DC from A to C.` | `AB B BC C Answer: A B C` |

Each step is two tokens, so the first positions of an answer are thinking and the final answer stands in full at the
end. From {recipe.clean_share:.0%} of the steps on its teacher forgot {habits.carry:.0%} of the carries and
{habits.borrow:.0%} of the borrows, drew the signs of {habits.guess:.0%} of the Countdown problems by chance, and took
the alphabetically first way at {habits.first:.0%} of the forks without looking.

## What it solves

{problems} test problems per family that the warm start never saw; sampled at temperature 1, top-k 30, top-p 0.95, tau
0.5; means over problems with 95% intervals.

| family | latent steps | greedy | right of {TRIES} (avg@{TRIES}) | right once in {TRIES} (pass@{TRIES}) |
|---|---|---|---|---|
{rows}

At temperature 0 a latent step is one token, so greedy answers are the same with and without while it is thinking that
latent steps replace. A Countdown problem with three numbers to add or subtract has six positions of it: eight latent
steps take the place of its final answer too, and it cannot be right. A walk that ends early has fewer as well.
"""
