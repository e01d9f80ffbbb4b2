"""How many held-out chains a model solves: greedy, by sampled tokens, and by sampled latent steps.

A static batch of answers, drawn with `training.latent`, the same maths the engine runs. Leaves out serving: the
answers of one batch start together, have prompts of one length, and end together.

Axes: B answers, P prompt tokens, T answer tokens, V vocabulary.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from training.controls import controls_for
from training.draw import draw
from training.graders.parse import parse_grader
from training.graders.verdict import Graded
from training.latent import mix
from training.noise import choice_seed
from training.sampling import Sampling
from training.tasks.problem import Problem

ANSWER_BUDGET = 14  # generated positions: the longest chain's steps, marker, result and end take 9
GRADING_SECONDS = 5.0  # string_check takes none of it


@dataclass(frozen=True)
class Accuracy:
    """Shares of right answers over a set of problems."""

    average: float  # of all answers, in [0, 1]
    best: float  # of problems with at least one right answer among their tries (pass@k), in [0, 1]
    tries: int  # answers per problem, k


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    sampling: Sampling,
    tries: int,
) -> Accuracy:
    """Answer every problem `tries` times and say how many answers are right."""
    right = solve(model, tokenizer, problems, sampling, tries)
    answers = [solved for attempts in right for solved in attempts]
    return Accuracy(sum(answers) / len(answers), sum(map(any, right)) / len(right), tries)


def solve(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    sampling: Sampling,
    tries: int,
    *,
    budget: int = ANSWER_BUDGET,
) -> list[list[bool]]:
    """Answer every problem `tries` times and grade the answers; the noise follows from `sampling.seed`.

    `budget` is the most tokens an answer may have after its latent steps. Returns, per problem, which tries are right.
    """
    right = [[False] * tries for _ in problems]
    for rows in batches_of_one_length(tokenizer, problems, tries):
        prompt_ids_BP = torch.tensor([row.prompt_ids for row in rows])
        seeds_B = torch.tensor([choice_seed(sampling.seed, row.problem * tries + row.attempt) for row in rows])
        tokens_BT = answer_batch(model, prompt_ids_BP, sampling, seeds_B, budget)
        for row, text in zip(rows, tokenizer.batch_decode(tokens_BT, skip_special_tokens=True), strict=True):
            verdict = parse_grader(problems[row.problem].grader).grade(text, GRADING_SECONDS)
            right[row.problem][row.attempt] = isinstance(verdict, Graded) and verdict.value == 1.0
    return right


@dataclass(frozen=True)
class Row:
    """One answer to be drawn."""

    problem: int  # index of its problem
    attempt: int  # 0-based among the tries
    prompt_ids: list[int]  # the prompt with its chat template


def batches_of_one_length(
    tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], tries: int
) -> list[list[Row]]:
    """Group the answers to be drawn by the length of their prompts, so that none is padded."""
    groups: dict[int, list[Row]] = defaultdict(list)
    for index, problem in enumerate(problems):
        messages = [{"role": "user", "content": problem.prompt}]
        text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        ids = tokenizer.encode(text, add_special_tokens=False)
        groups[len(ids)].extend(Row(index, attempt, ids) for attempt in range(tries))
    return list(groups.values())


@torch.no_grad()
def answer_batch(
    model: PreTrainedModel, prompt_ids_BP: Tensor, sampling: Sampling, seeds_B: Tensor, budget: int = ANSWER_BUDGET
) -> Tensor:
    """Draw one answer per prompt: latent steps first, then tokens until the end of sequence.

    Returns:
        int64 [B, T], filled with the end of sequence after an answer's end.

    """
    embedding, end = model.get_input_embeddings(), int(model.config.eos_token_id)
    batch = prompt_ids_BP.shape[0]
    controls = controls_for([replace(sampling, seed=seed) for seed in seeds_B.tolist()], prompt_ids_BP.device)
    cache = DynamicCache(config=model.config)
    inputs = embedding(prompt_ids_BP)
    ended_B, tokens = torch.zeros(batch, dtype=torch.bool), []
    for step in range(sampling.latent_length + budget):
        logits_BV = model(inputs_embeds=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        drawn = draw(logits_BV, controls, torch.full_like(controls.stream_B1, step), sampling.top_k)
        if step < sampling.latent_length:
            inputs = mix(embedding, drawn.ids_BK, drawn.weights_BK)[:, None]
            continue
        token_B = torch.where(ended_B, end, drawn.token_B1.squeeze(1))
        ended_B |= token_B == end
        tokens.append(token_B)
        if ended_B.all():
            break
        inputs = embedding(token_B)[:, None]
    return torch.stack(tokens, 1)
