"""The recipe of the bench model: the demo model's, on lessons of four families at once, thought in words and mixtures.

Because it was shown mixtures of thoughts, its latent steps are within what it knows: a latent warm start, as soft
methods need one (arXiv:2604.27998). Leaves out the lessons (`lessons`).

Axes: V vocabulary, D hidden size.
"""

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from training.bench_model.lessons import draw_lessons, lesson_loss
from training.bench_model.teacher import Habits
from training.demo_model.recipe import Recipe, build_model, teach
from training.demo_model.teacher import Slips
from training.demo_model.tokenizer import WORDS, build_tokenizer
from training.tasks.graph_path import NODES

EDGES = tuple(f"{source}{target} " for source in NODES for target in NODES if source != target)
BENCH_WORDS = (
    *WORDS,
    *("Reach ", "from ", "Walk ", "to ", "Follow ", "which ", "of "),
    *(f"{sign} {digit}" for sign in "+-" for digit in range(10)),
    *(f"{node} " for node in NODES),
    *EDGES,
)
CLEAN_HABITS = Habits(carry=0.0, borrow=0.0, digit=0.0, guess=0.0)
HABITS = Habits()


def bench_recipe(seed: int = 0) -> Recipe:
    """Return the settings that made the committed weights."""
    return Recipe(seed=seed, hidden=96, layers=3, steps=3000, clean_share=0.6, batch=72, slips=HABITS)


def warm_start_bench(
    recipe: Recipe, on_step: Callable[[int, float], None]
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Make the model; `on_step` hears the number of steps done and the loss of the last, in nats."""
    tokenizer = build_tokenizer(recipe.max_length, BENCH_WORDS)
    model = build_model(recipe, tokenizer)
    compose_edges(model.get_input_embeddings(), tokenizer, recipe)

    def loss(rng: random.Random, slips: Slips) -> Tensor:
        habits = slips if isinstance(slips, Habits) else CLEAN_HABITS
        return lesson_loss(model, draw_lessons(rng, habits, recipe.batch, tokenizer))

    teach(recipe, model, loss, on_step)
    return model, tokenizer


@torch.no_grad()
def compose_edges(embedding: nn.Module, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> None:
    """Start each edge's row near the sum of a row for its source and one for its target, and each node's near both.

    As with the numbers of the demo model: a tokenizer with one token per edge would hide which edges meet.
    """
    rows_VD = embedding.weight
    assert isinstance(rows_VD, Tensor)
    draws = torch.Generator().manual_seed(recipe.seed)
    sources, targets = (
        dict(zip(NODES, torch.randn(len(NODES), rows_VD.shape[1], generator=draws) * recipe.initial_std, strict=True))
        for _ in range(2)
    )
    pieces = [*EDGES, *NODES, *(f"{node} " for node in NODES)]
    for piece in pieces:
        [token] = tokenizer.encode(piece, add_special_tokens=False)
        rows_VD[token] = 0.3 * rows_VD[token] + sources[piece[0]] + targets[piece.strip()[-1]]
