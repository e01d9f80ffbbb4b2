"""Lessons as tensors: the prompt, the thoughts in words or in mixtures, and the answer.

Each position is executed as a mixture of at most WIDTH tokens (one of weight 1 where it is a word), and teaches a
distribution over at most WIDTH tokens for the position after it. Leaves out what is thought (`teacher`).

Axes: B lessons, T positions, W parts of a mixture, N positions that teach, V vocabulary, D hidden size.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from training.bench_model.problems import TAUGHT
from training.bench_model.teacher import (
    ChainThinker,
    CountdownThinker,
    Habits,
    Mixture,
    PathThinker,
    ReachThinker,
    Thinker,
    Thought,
    think,
)
from training.tasks.chained_arithmetic import chain_problem, draw_chain
from training.tasks.countdown import countdown_problem
from training.tasks.families import FAMILIES, find_family
from training.tasks.graph_path import draw_graph, path_problem
from training.tasks.problem import Problem
from training.tasks.reachability import draw_forest, reachability_problem
from training.tasks.splits import Split, split_of

WIDTH = 12  # parts of a mixture kept, the heaviest
SOFT_SHARE = 0.7  # of lessons, thought in mixtures; the others in words
TAUS = (0.3, 1.5)  # lowest and highest temperature of a lesson's mixtures
SHARES = {"chained_arithmetic": 1, "countdown": 1, "graph_path": 2, "reachability": 2}  # of a batch


@dataclass(frozen=True)
class Lesson:
    """One problem with the teacher's thoughts and answer."""

    problem: Problem
    thoughts: Sequence[Thought]
    answer: str  # without the end of sequence


@dataclass(frozen=True)
class SoftBatch:
    """Lessons padded on the right."""

    ids_BTW: Tensor  # int64, parts of the mixture executed at each position
    weights_BTW: Tensor  # float32, their weights
    taught_BTW: Tensor  # int64, tokens taught for the position after
    shares_BTW: Tensor  # float32, their probabilities; all 0 where nothing is taught


def thinker_of(rng: random.Random, family: str, habits: Habits) -> tuple[Problem, Thinker]:
    """Draw a problem of any split, with the teacher's way of working it.

    Raises:
        ValueError: the teacher knows no such family.

    """
    if family not in FAMILIES:
        raise ValueError(f"the teacher knows no problems of the family {family!r}")
    difficulty = rng.choice(TAUGHT[family])
    match family:
        case "chained_arithmetic":
            chain = draw_chain(rng, difficulty)
            return chain_problem(chain), ChainThinker(chain, habits)
        case "countdown":
            chain = draw_chain(rng, difficulty)
            return countdown_problem(chain), CountdownThinker(chain, habits.guess)
        case "graph_path":
            graph = draw_graph(rng, difficulty)
            return path_problem(graph, difficulty), PathThinker(graph)
        case _:
            forest = draw_forest(rng, difficulty)
            return reachability_problem(forest), ReachThinker(forest)


def lessons(rng: random.Random, family: str, habits: Habits) -> Iterator[Lesson]:
    """Draw lessons on the family's train split, without end."""
    canonical = find_family(family).canonical
    while True:
        problem, thinker = thinker_of(rng, family, habits)
        if split_of(family, canonical(problem)) is Split.TRAIN:
            tau = rng.uniform(*TAUS) if rng.random() < SOFT_SHARE else None
            thoughts = think(rng, thinker, tau)
            yield Lesson(problem, thoughts, thinker.conclude(rng, [one.thought for one in thoughts]))


def draw_lessons(rng: random.Random, habits: Habits, size: int, tokenizer: PreTrainedTokenizerFast) -> SoftBatch:
    """Draw a batch of `size` lessons, each family's share of it."""
    per_share = size // sum(SHARES.values())
    drawn = [one for name, share in SHARES.items() for one in islice(lessons(rng, name, habits), share * per_share)]
    return collate(drawn, tokenizer)


def collate(drawn: Sequence[Lesson], tokenizer: PreTrainedTokenizerFast) -> SoftBatch:
    """Write lessons as tensors."""
    rows = [written(lesson, tokenizer) for lesson in drawn]
    shape = (len(rows), max(len(row) for row, _ in rows), WIDTH)
    ids_BTW, weights_BTW = torch.full(shape, int(tokenizer.pad_token_id)), torch.zeros(shape)
    taught_BTW, shares_BTW = torch.zeros(shape, dtype=torch.long), torch.zeros(shape)
    weights_BTW[:, :, 0] = 1.0
    for number, (row, first) in enumerate(rows):
        for place, (executed, taught) in enumerate(row):
            _put(ids_BTW[number, place], weights_BTW[number, place], executed)
            if place >= first:
                _put(taught_BTW[number, place - 1], shares_BTW[number, place - 1], taught)
    return SoftBatch(ids_BTW, weights_BTW, taught_BTW, shares_BTW)


def written(lesson: Lesson, tokenizer: PreTrainedTokenizerFast) -> tuple[list[tuple["Parts", "Parts"]], int]:
    """Write a lesson position by position, as (executed, taught), and say at which position teaching begins."""
    messages = [{"role": "user", "content": lesson.problem.prompt}]
    prompt = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
    answer_ids = tokenizer.encode(lesson.answer + str(tokenizer.eos_token), add_special_tokens=False)
    words = [([(token, 1.0)],) * 2 for token in (*prompt_ids, *answer_ids)]
    thoughts = [(_parts(one.thought, tokenizer), _parts(one.expected, tokenizer)) for one in lesson.thoughts]
    return [*words[: len(prompt_ids)], *thoughts, *words[len(prompt_ids) :]], len(prompt_ids)


Parts = list[tuple[int, float]]  # token ids with their weights


def _parts(mixture: Mixture, tokenizer: PreTrainedTokenizerFast) -> Parts:
    heaviest = sorted(mixture.items(), key=lambda part: -part[1])[:WIDTH]
    total = sum(weight for _, weight in heaviest)
    return [(tokenizer.encode(text, add_special_tokens=False)[0], weight / total) for text, weight in heaviest]


def _put(ids_W: Tensor, weights_W: Tensor, parts: Parts) -> None:
    ids_W[: len(parts)] = torch.tensor([token for token, _ in parts])
    weights_W[: len(parts)] = torch.tensor([weight for _, weight in parts])


def lesson_loss(model: LlamaForCausalLM, batch: SoftBatch) -> Tensor:
    """Return the mean cross-entropy to what is taught, in nats (a scalar)."""
    table = model.get_input_embeddings()
    inputs_BTD = table(batch.ids_BTW[:, :, 0]).clone()
    mixed_BT = batch.weights_BTW[:, :, 1] > 0
    parts_NWD = table(batch.ids_BTW[mixed_BT])
    inputs_BTD[mixed_BT] = (batch.weights_BTW[mixed_BT][:, :, None] * parts_NWD).sum(1)
    teaches_BT = batch.shares_BTW[:, :, 0] > 0
    at_T = teaches_BT.any(0).nonzero().squeeze(1)
    logits_BAV = model(inputs_embeds=inputs_BTD, use_cache=False, logits_to_keep=at_T).logits
    logprobs_NV = logits_BAV[teaches_BT[:, at_T]].log_softmax(-1)
    picked_NW = logprobs_NV.gather(1, batch.taught_BTW[teaches_BT])
    total: Tensor = (batch.shares_BTW[teaches_BT] * picked_NW).sum()
    return -total / teaches_BT.sum()
