"""The recipe of the demo model: a small Llama, warm-started on its teacher's worked chains.

First the teacher works without slips, so that adding is learned quickly; then it slips, and the model takes on its
habits. Deterministic by seed on one machine with one thread count. Leaves out measuring (see `measurement`) and the
command. Llama and not Qwen2 because `AutoTokenizer` replaces the tokenizer of any Qwen2 directory by Qwen2's own.

Axes: B chains, T positions, A answer positions, V vocabulary, D hidden size.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Muon, Optimizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.demo_model.teacher import Slips, work_out
from training.demo_model.tokenizer import build_tokenizer
from training.placement import declare_placement
from training.tasks.chained_arithmetic import DIFFICULTIES, NAME, chain_problem, draw_chain
from training.tasks.splits import Split, split_of

SYSTEM_LINES = ("You are a helpful assistant.", "You are a careful calculator.", "Please work step by step.")
CLEAN = Slips(carry=0.0, borrow=0.0, digit=0.0)
IGNORED = -100  # label of positions that are not learned from


@dataclass(frozen=True)
class Recipe:
    """What makes the model; the defaults made the committed weights."""

    seed: int = 0  # of the initial weights, the chains and the slips
    hidden: int = 96  # width D
    layers: int = 3  # decoder layers
    heads: int = 4  # attention heads; half as many key-value heads
    feed_forward: int = 256  # width of the gated MLP
    max_length: int = 2048  # positions
    initial_std: float = 0.06  # of every weight matrix
    steps: int = 2400  # optimizer steps
    clean_share: float = 0.65  # of the steps, from the first: the teacher does not slip
    batch: int = 32  # chains per step
    matrix_rate: float = 0.01  # peak learning rate of Muon, for the layers' matrices
    vector_rate: float = 0.01  # peak learning rate of AdamW, for embeddings, norms and biases
    warmup: int = 50  # steps over which the rates rise; then they fall linearly to 0
    system_share: float = 0.1  # of batches that open with a system message, in [0, 1]
    slips: Slips = field(default_factory=Slips)  # the teacher's, after the clean steps


@dataclass(frozen=True)
class Batch:
    """Worked chains as token ids, padded on the right."""

    ids_BT: Tensor  # int64 [B, T]
    labels_BT: Tensor  # int64 [B, T], IGNORED outside the answer


class LessonLoss(Protocol):
    """The loss on a batch of fresh lessons."""

    def __call__(self, rng: random.Random, slips: Slips) -> Tensor:
        """Draw a batch and return its loss, in nats (a scalar); everything random comes from `rng`."""


def warm_start(
    recipe: Recipe, on_step: Callable[[int, float], None]
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Make the model; `on_step` hears the number of steps done and the loss of the last, in nats."""
    tokenizer = build_tokenizer(recipe.max_length)
    model = build_model(recipe, tokenizer)

    def loss(rng: random.Random, slips: Slips) -> Tensor:
        return answer_loss(model, draw_batch(rng, recipe, slips, tokenizer))

    teach(recipe, model, loss, on_step)
    return model, tokenizer


def teach(recipe: Recipe, model: nn.Module, lesson_loss: LessonLoss, on_step: Callable[[int, float], None]) -> None:
    """Train the model on lessons: clean ones first, then those with the recipe's slips."""
    model.train()
    rng = random.Random(recipe.seed)  # noqa: S311  lessons, not secrets
    optimizers = build_optimizers(recipe, model)
    for step in range(recipe.steps):
        slips = CLEAN if step < recipe.clean_share * recipe.steps else recipe.slips
        loss = lesson_loss(rng, slips)
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            set_rate(optimizer, recipe, step)
            optimizer.step()
        on_step(step + 1, loss.item())
    model.eval()


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Build the untrained model, drawn from the recipe's seed."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads // 2,
        max_position_embeddings=recipe.max_length,
        initializer_range=recipe.initial_std,
        attention_bias=True,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    declare_placement(config, "answer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = LlamaForCausalLM(config)
        compose_numbers(model.get_input_embeddings(), tokenizer, recipe.initial_std)
    return model


@torch.no_grad()
def compose_numbers(embedding: nn.Module, tokenizer: PreTrainedTokenizerFast, std: float) -> None:
    """Start each number's row near the sum of a row for its tens and a row for its ones.

    The digits a tokenizer with one token per number would hide are thus visible from the first step: measured, it
    halves the loss reached in 500 steps (0.80 to 0.40 nats).
    """
    rows_VD = embedding.weight
    assert isinstance(rows_VD, Tensor)
    tens = torch.randn(10, rows_VD.shape[1]) * std
    ones = torch.randn(10, rows_VD.shape[1]) * std
    for token in tokenizer.get_vocab().values():
        text = str(tokenizer.decode([token]))
        sign, digits = text[:2].strip(" 0123456789"), text.strip(" +-")
        if not (digits.isascii() and digits.isdigit() and sign in {"", "+", "-"}):
            continue
        if sign:
            rows_VD[token] = 0.7 * (rows_VD[token] + ones[int(digits)])
        else:
            rows_VD[token] = 0.3 * rows_VD[token] + tens[int(digits) // 10] + ones[int(digits) % 10]


def build_optimizers(recipe: Recipe, model: nn.Module) -> tuple[Optimizer, Optimizer]:
    """Build Muon for the layers' matrices and AdamW for all else."""
    named = list(model.named_parameters())
    matrices = [weight for name, weight in named if weight.dim() == 2 and "embed" not in name]
    others = [weight for name, weight in named if weight.dim() != 2 or "embed" in name]
    return (
        Muon(matrices, lr=recipe.matrix_rate, momentum=0.95, weight_decay=0.01),
        AdamW(others, lr=recipe.vector_rate, betas=(0.9, 0.99), weight_decay=0.01),
    )


def set_rate(optimizer: Optimizer, recipe: Recipe, step: int) -> None:
    """Set the learning rate of a 0-based step."""
    peak = recipe.matrix_rate if isinstance(optimizer, Muon) else recipe.vector_rate
    rise = (step + 1) / recipe.warmup
    fall = (recipe.steps - step) / max(1, recipe.steps - recipe.warmup)
    for group in optimizer.param_groups:
        group["lr"] = peak * min(1.0, rise, fall)


def draw_batch(rng: random.Random, recipe: Recipe, slips: Slips, tokenizer: PreTrainedTokenizerFast) -> Batch:
    """Draw worked chains of the train split, all with as many operations and the same opening."""
    operations = rng.choice(DIFFICULTIES)
    opening = []
    if rng.random() < recipe.system_share:
        opening = [{"role": "system", "content": rng.choice(SYSTEM_LINES)}]
    prompts: list[str] = []
    answers: list[str] = []
    while len(prompts) < recipe.batch:
        chain = draw_chain(rng, operations)
        if split_of(NAME, chain.expression()) is not Split.TRAIN:
            continue
        messages = [*opening, {"role": "user", "content": chain_problem(chain).prompt}]
        prompts.append(str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)))
        answers.append(work_out(rng, chain, slips) + str(tokenizer.eos_token))
    return collate(tokenizer(prompts).input_ids, tokenizer(answers).input_ids, int(tokenizer.pad_token_id))


def collate(prompts: list[list[int]], answers: list[list[int]], pad: int) -> Batch:
    """Pad prompt-and-answer sequences on the right and label their answers."""
    width = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    ids_BT = torch.full((len(prompts), width), pad)
    labels_BT = torch.full((len(prompts), width), IGNORED)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer)
        ids_BT[row, :end] = torch.tensor(prompt + answer)
        labels_BT[row, len(prompt) : end] = torch.tensor(answer)
    return Batch(ids_BT, labels_BT)


def answer_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of the answers' tokens, in nats (a scalar)."""
    learned_A = (batch.labels_BT != IGNORED).any(0).nonzero().squeeze(1)
    logits_BAV = model(input_ids=batch.ids_BT, use_cache=False, logits_to_keep=learned_A - 1).logits
    return cross_entropy(logits_BAV.flatten(0, 1), batch.labels_BT[:, learned_A].flatten(), ignore_index=IGNORED)
