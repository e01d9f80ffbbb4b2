"""The recipe of the bench model: the demo model's, on lessons of three families at once.

Axes: B lessons, T positions, V vocabulary, D hidden size.
"""

import random
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from training.bench_model.teacher import Habits, work_chain, work_countdown, work_path
from training.demo_model.recipe import Batch, Recipe, build_model, collate, teach
from training.demo_model.teacher import Slips
from training.demo_model.tokenizer import WORDS, build_tokenizer
from training.tasks.chained_arithmetic import DIFFICULTIES as OPERATIONS
from training.tasks.chained_arithmetic import chain_problem, draw_chain
from training.tasks.countdown import DIFFICULTIES as NUMBERS
from training.tasks.countdown import countdown_problem
from training.tasks.families import FAMILIES, find_family
from training.tasks.graph_path import DIFFICULTIES as FORKS
from training.tasks.graph_path import NODES, draw_graph, path_problem
from training.tasks.problem import Problem
from training.tasks.splits import Split, split_of

EDGES = tuple(f"{source}{target} " for source in NODES for target in NODES if source != target)
BENCH_WORDS = (
    *WORDS,
    *("Reach ", "from ", "Walk ", "to "),
    *(f"{sign} {digit}" for sign in "+-" for digit in range(10)),
    *(f"{node} " for node in NODES),
    *EDGES,
)
CLEAN_HABITS = Habits(carry=0.0, borrow=0.0, digit=0.0, guess=0.0, first=0.0)


HABITS = Habits()


def bench_recipe(seed: int = 0) -> Recipe:
    """Return the settings that made the committed weights."""
    return Recipe(seed=seed, hidden=96, layers=3, steps=2000, clean_share=0.6, batch=48, slips=HABITS)


def warm_start_bench(
    recipe: Recipe, on_step: Callable[[int, float], None]
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Make the model; `on_step` hears the number of steps done and the loss of the last, in nats."""
    tokenizer = build_tokenizer(recipe.max_length, BENCH_WORDS)
    model = build_model(recipe, tokenizer)
    compose_edges(model.get_input_embeddings(), tokenizer, recipe)
    teach(recipe, model, partial(draw_lessons, recipe=recipe, tokenizer=tokenizer), on_step)
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


def draw_lessons(rng: random.Random, *, slips: Slips, recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Batch:
    """Draw worked problems of the train split, as many of each family."""
    habits = slips if isinstance(slips, Habits) else CLEAN_HABITS
    prompts, answers = [], []
    for family in FAMILIES:
        for problem, answer in islice(lessons(rng, family, habits), recipe.batch // len(FAMILIES)):
            messages = [{"role": "user", "content": problem.prompt}]
            prompts.append(str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)))
            answers.append(answer + str(tokenizer.eos_token))
    return collate(tokenizer(prompts).input_ids, tokenizer(answers).input_ids, int(tokenizer.pad_token_id))


def lessons(rng: random.Random, family: str, habits: Habits) -> Iterator[tuple[Problem, str]]:
    """Draw problems of the family's train split, each with the teacher's answer, without end."""
    canonical = find_family(family).canonical
    while True:
        problem, answer = lesson(rng, family, habits)
        if split_of(family, canonical(problem)) is Split.TRAIN:
            yield problem, answer


def lesson(rng: random.Random, family: str, habits: Habits) -> tuple[Problem, str]:
    """Draw a problem of any split, with the teacher's answer."""
    match family:
        case "chained_arithmetic":
            chain = draw_chain(rng, rng.choice(OPERATIONS))
            return chain_problem(chain), work_chain(rng, chain, habits)
        case "countdown":
            chain = draw_chain(rng, rng.choice(NUMBERS))
            return countdown_problem(chain), work_countdown(rng, chain, habits.guess)
        case "graph_path":
            forks = rng.choice(FORKS)
            graph = draw_graph(rng, forks)
            return path_problem(graph, forks), work_path(rng, graph, habits.first)
        case _:
            raise ValueError(f"the teacher knows no problems of the family {family!r}")
